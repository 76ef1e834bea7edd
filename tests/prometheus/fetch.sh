#!/bin/sh
# Unpacks Debian's Prometheus with promtool into .cache/prometheus, once. Installed, the package
# would run a server of its own on this host.
set -eu
cache=$(dirname "$0")/../../.cache/prometheus
[ -x "$cache/usr/bin/promtool" ] && exit 0
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
# Another user, _apt, downloads.
chmod 755 "$new"
cd "$new"
apt-get download -q=2 prometheus 2>/dev/null || {
	sudo=
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	$sudo apt-get update -qq
	apt-get download -q=2 prometheus
}
dpkg-deb -x prometheus_*.deb unpacked
cd - >/dev/null
mkdir -p "$(dirname "$cache")"
rm -rf "$cache"
mv "$new/unpacked" "$cache"
