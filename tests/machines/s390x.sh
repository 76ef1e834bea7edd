#!/bin/sh
# s390x, big-endian: its objects are compiled anew and compared. On Linux 6.1 and 6.12, which have no
# BPF compiler there, but an interpreter: the kernel programs, captures, filters, tests, the agent. The
# emulated 6.12 panics once there is a VLAN (wires.add_vlan).
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
room=machines
boot_timeout_s=3600
. "$top/tools/guest.sh"
. "$top/tests/kernels/overlay.sh"
. "$top/tests/machines/overlay.sh"

# Cross-compiles library $1, of which neither PyPI nor Debian 12 has one to use here, into directory
# $2. Its one extension is $3, a C source in its package; $4… are further arguments for the compiler.
add_compiled() {
	library=$1 target=$2 extension=$3
	shift 3
	version=$(installed "$library")
	if [ ! -d "$cache/$library-$version" ]; then
		guest_update
		mkdir "$work/$library"
		(
			cd "$work/$library"
			"$top/.venv/bin/pip" download -q --disable-pip-version-check --no-deps \
				--no-binary "$library" "$library==$version"
			tar -xf "$library"-*.tar.gz --strip-components 1
			apt-get download -qq libpython3.11-dev libuv1-dev
			for file in *.deb; do
				dpkg-deb -x "$file" debian
			done
			[ ! -d src ] || mv "src/$library" .
			mkdir built
			mv "$library" built/
			headers=debian/usr/include
			s390x-linux-gnu-gcc -shared -fPIC -O1 -DNDEBUG "-I$headers/python3.11" "-I$headers" \
				-I. "-Ibuilt/$library" -o "built/$library/${extension%.c}.so" \
				"built/$library/$extension" "$@"
		)
		mv "$work/$library/built" "$cache/$library-$version"
	fi
	cp -r "$cache/$library-$version/$library" "$target/"
}

# Unpacks the wheel that PyPI has of a library for this machine into directory $2.
add_wheel() {
	version=$(installed "$1")
	[ -d "$cache/$1-$version" ] || {
		"$top/.venv/bin/pip" download -q --disable-pip-version-check --no-deps --python-version 3.11 \
			--platform manylinux2014_s390x --platform manylinux_2_28_s390x --only-binary :all: \
			--dest "$work/$1" "$1==$version"
		"$top/.venv/bin/python" -m zipfile -e "$work/$1"/*.whl "$work/$1/tree"
		mv "$work/$1/tree" "$cache/$1-$version"
	}
	cp -r "$cache/$1-$version/." "$2/"
}

"$top/tools/install-packages.sh" s390x-linux-gnu-gcc=gcc-s390x-linux-gnu
status=0
"$top/.venv/bin/python" -m tools.generate --check-big-endian &&
	echo "s390x: ok    objects: compiled anew they are the embedded ones" ||
	{ status=1 && echo "s390x: FAIL  objects: they are not what is compiled there now"; }
guest_use s390x
guest_base agent python3 python3-numpy python3-pytest libbpf1 libpcap0.8 \
	libseccomp2 ethtool iputils-ping procps
machine_overlay "$work/overlay" links.py skbs.py runs.py agent.py
add_tests "$work/overlay"
cp "$top"/tests/machines/*.py "$work/overlay/flowstream/"
add_wheel cramjam "$work/overlay/flowstream"
add_wheel hypothesis "$work/overlay/flowstream"
add_compiled msgspec "$work/overlay/flowstream" _core.c
add_compiled uvloop "$work/overlay/flowstream" loop.c \
	debian/usr/lib/s390x-linux-gnu/libuv_a.a -lpthread -ldl -lrt
(cd "$work/overlay" && compile_python flowstream tests)
checks_boot "s390x, Linux 6.1" '6\.1\.0-[0-9]+-s390x' agent "$work/overlay"
checks_boot "s390x, Linux 6.12" '6\.12\.[0-9]+\+deb12-s390x' agent "$work/overlay"
exit $status
