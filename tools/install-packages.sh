#!/bin/sh
# Installs missing Debian packages quietly. Each argument is PACKAGE, or COMMAND=PACKAGE if
# another package may provide the command too.
set -eu
missing=
for word in "$@"; do
	case $word in
	*=*) command -v "${word%%=*}" >/dev/null || missing="$missing ${word#*=}" ;;
	*) dpkg-query -W -f='${db:Status-Status}' "$word" 2>/dev/null | grep -qx installed ||
		missing="$missing $word" ;;
	esac
done
[ -n "$missing" ] || exit 0
sudo=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || { echo "run as root (missing packages:$missing)" >&2; exit 1; }
	sudo=sudo
fi
echo "installing:$missing"
log=$(mktemp)
# shellcheck disable=SC2086 # a list of words
{ $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive \
	apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 || {
	cat "$log" >&2
	exit 1
}
rm -f "$log"
