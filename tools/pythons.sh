#!/usr/bin/env bash
# Runs tests on the other supported Python versions that this machine has, each in a venv of
# its own with the locked packages. The supported versions are pyproject.toml's classifiers.
#   tools/pythons.sh OWN-PYTHON TEST...
set -euo pipefail
cd "$(dirname "$0")/.."
own=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
shift

install_locked() {
	local python=$1 venv=$2
	cat pyproject.toml requirements-dev.txt | cmp -s - "$venv/installed" && return
	rm -rf "$venv"
	"$python" -m venv "$venv"
	"$venv/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	# setuptools warns about every editable install.
	PYTHONWARNINGS=ignore "$venv/bin/pip" install -q --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	cat pyproject.toml requirements-dev.txt >"$venv/installed"
}

ran=() missing=()
for version in $(sed -nE 's/.*Python :: (3\.[0-9]+)".*/\1/p' pyproject.toml); do
	[ "$version" != "$own" ] || continue
	if ! python=$(tools/find-python.sh "$version"); then
		missing+=("$version")
		continue
	fi
	venv=.cache/python-$version
	install_locked "$python" "$venv"
	echo "Python $version ($("$venv/bin/python" --version)):"
	"$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
	ran+=("$version")
done
echo "Unit tests ran on Python ${ran[*]:-none} beside $own; not on this machine: ${missing[*]:-none}."
