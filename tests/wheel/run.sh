#!/usr/bin/env bash
# Runs the agent from its wheel on each supported Python that this machine has: installed by
# pip install 'flowstream-….whl[agent]' into a fresh venv, with the locked versions, where there
# is no bcc, compiler or header. Prints a line per Python; the exit status is 1 on any failure.
#   tests/wheel/run.sh PYTHON    with the PYTHON that builds the wheel
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cd "$top"

fail() {
	echo "wheel: FAIL  $*" >&2
	exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run as root"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" -m tools.release "$work/release" >/dev/null
sed -nE 's/^([A-Za-z0-9._-]+==[^ ]+).*/\1/p' requirements.txt >"$work/constraints.txt"

ran=() missing=()
for version in $(sed -nE 's/.*Python :: (3\.[0-9]+)".*/\1/p' pyproject.toml); do
	if ! python=$(tools/find-python.sh "$version"); then
		missing+=("$version")
		continue
	fi
	venv=$work/python-$version
	"$python" -m venv "$venv"
	"$venv/bin/pip" install -q --disable-pip-version-check -c "$work/constraints.txt" \
		"$(echo "$work"/release/*.whl)[agent]" || fail "pip on Python $version"
	result=$(unshare --mount --net "$here/bare.sh" "$venv" "$work") ||
		fail "Python $version: $result"
	echo "wheel: ok    $("$venv/bin/python" --version): $result"
	ran+=("$version")
done
[ ${#ran[@]} -gt 0 ] || fail "this machine has none of the supported Python versions"
echo "The wheel ran on Python ${ran[*]}; not on this machine: ${missing[*]:-none}."
