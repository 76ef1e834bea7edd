#!/bin/sh
# arm64: the kernel programs, and the whole agent from its wheel, with 4 CPUs on Linux 6.1, with 4 and
# pages of 16 KiB on 6.12 (Debian has no kernel with 64 KiB), and on 6.12 with 8 CPUs, and with 2 of
# 8 possible ones.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
room=machines
boot_timeout_s=2400
. "$top/tools/guest.sh"
. "$top/tests/kernels/overlay.sh"
. "$top/tests/machines/overlay.sh"

# The locked libraries, those of this machine, into directory $1.
add_libraries() {
	libraries=$cache/libraries-$(sha256sum <"$top/requirements.txt" | cut -c 1-16)
	if [ ! -d "$libraries" ]; then
		install_there "$work/libraries" --require-hashes -r "$top/requirements.txt"
		mv "$work/libraries" "$libraries"
	fi
	cp -r "$libraries/." "$1/"
}

# As pip does on Debian 12 of this machine; all wheels are taken that its glibc 2.36 can load.
install_there() {
	target=$1
	shift
	platforms=any
	for minor in 17 24 26 27 28 31 34 35; do
		platforms="$platforms manylinux_2_${minor}_aarch64"
	done
	"$top/.venv/bin/pip" install -q --disable-pip-version-check --root-user-action ignore \
		--no-deps --no-compile --only-binary :all: --python-version 3.11 --implementation cp \
		$(printf -- '--platform %s ' $platforms manylinux2014_aarch64) --upgrade \
		--target "$target" "$@"
}

# The wheel of this checkout in place of its sources.
add_wheel() {
	mkdir "$work/source"
	cp -r "$top/pyproject.toml" "$top/README.md" "$top/LICENSE" "$top/flowstream" "$work/source"
	"$top/.venv/bin/pip" wheel -q --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir "$work/wheels" "$work/source" >"$work/wheel.log" 2>&1 || {
		cat "$work/wheel.log" >&2
		fail "making the wheel failed"
	}
	rm -rf "$1/flowstream"
	install_there "$1" "$work"/wheels/*.whl
}

guest_use arm64
guest_base agent python3 libbpf1 libpcap0.8 libseccomp2 libstdc++6 \
	ethtool iputils-ping procps
machine_overlay "$work/overlay" links.py skbs.py runs.py agent.py
cp "$top"/tests/machines/*.py "$work/overlay/flowstream/"
add_libraries "$work/overlay/flowstream"
add_wheel "$work/overlay/flowstream"
(cd "$work/overlay" && compile_python flowstream)
cp -r "$work/overlay" "$work/agent"
echo 'PYTHONPATH=/flowstream exec python3 -B /flowstream/agent.py' >"$work/agent/run.sh"
status=0
checks_boot "arm64, Linux 6.1" '6\.1\.0-[0-9]+-arm64' agent "$work/overlay" -smp 4
checks_boot "arm64, Linux 6.12, pages of 16 KiB" '6\.12\.[0-9]+\+deb12-arm64-16k' \
	agent "$work/overlay" -smp 4
checks_boot "arm64, Linux 6.12, 8 CPUs" '6\.12\.[0-9]+\+deb12-arm64' agent "$work/agent" -smp 8
append=maxcpus=2
checks_boot "arm64, Linux 6.12, 2 of 8 CPUs" '6\.12\.[0-9]+\+deb12-arm64' \
	agent "$work/agent" -smp 8
exit $status
