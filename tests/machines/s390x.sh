#!/bin/sh
# The big-endian machine, s390x: its objects are compiled anew and compared; the kernel programs are
# checked on Linux 6.1 and 6.12, whose BPF is interpreted there.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
room=machines
boot_timeout_s=900
. "$top/tools/guest.sh"
. "$top/tests/kernels/overlay.sh"

# Cross-compiles msgspec, which Debian 12 lacks, into directory $1.
add_msgspec() {
	version=$("$top/.venv/bin/python" -c 'import msgspec; print(msgspec.__version__)')
	if [ ! -d "$cache/msgspec-$version" ]; then
		guest_update
		mkdir "$work/msgspec"
		(
			cd "$work/msgspec"
			"$top/.venv/bin/pip" download -q --disable-pip-version-check --no-deps \
				--no-binary msgspec "msgspec==$version"
			tar -xf msgspec-*.tar.gz
			apt-get download -qq libpython3.11-dev
			dpkg-deb -x libpython3.11-dev*.deb python
			mv "msgspec-$version/src/msgspec" built
			s390x-linux-gnu-gcc -shared -fPIC -O1 -DNDEBUG -Ipython/usr/include/python3.11 \
				-Ipython/usr/include -o built/_core.so built/_core.c
		)
		mkdir "$cache/msgspec-$version"
		mv "$work/msgspec/built" "$cache/msgspec-$version/msgspec"
	fi
	cp -r "$cache/msgspec-$version/msgspec" "$1/"
}

"$top/tools/install-packages.sh" s390x-linux-gnu-gcc=gcc-s390x-linux-gnu
status=0
"$top/.venv/bin/python" -m tools.generate --check-big-endian &&
	echo "s390x: ok    objects: compiled anew they are the embedded ones" ||
	{ status=1 && echo "s390x: FAIL  objects: they are not what is compiled there now"; }
guest_use s390x
guest_base agent python3 python3-numpy libbpf1 libpcap0.8 libseccomp2
checks_overlay "$work/overlay"
add_msgspec "$work/overlay/flowstream"
for series in 6.1 6.12; do
	case $series in
	6.1) guest_kernel '6\.1\.0-[0-9]+-s390x' $kinds ;;
	6.12) guest_kernel '6\.12\.[0-9]+\+deb12-s390x' $kinds ;;
	esac
	checks_boot agent "$work/overlay" "s390x, Linux $series" || status=1
done
exit $status
