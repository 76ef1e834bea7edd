#!/bin/sh
# Boots Debian's 6.1 and 6.12 kernels in qemu (emulated: no /dev/kvm needed) and runs check.py and
# links.py in each; and a capture must give the same records there as here. Prints a line per
# kernel and check; exit status 1 when one failed. The base of the guest and the kernels are kept
# in .cache/kernels; the guest has no network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=$top/.cache/kernels
boot_timeout_s=300
kinds="veth bonding 8021q ip_gre ipip sit wireguard tun"

fail() {
	echo "kernels: $*" >&2
	exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run as root: debootstrap needs it"
[ "$(dpkg --print-architecture)" = amd64 ] || fail "only amd64's kernels are known here"
"$top/tools/install-packages.sh" debootstrap qemu-system-x86_64=qemu-system-x86 cpio \
	xz=xz-utils modinfo=kmod
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

archive() { # of the current directory, to standard output
	find . -path './dev/*' -prune -o -path './proc/*' -prune -o -path './sys/*' -prune -o -print0 |
		cpio --null --create --format=newc --quiet
}

# debootstrap may leave /proc mounted: what is removed stays on this file system.
remove_base() {
	[ -d "$cache/base" ] || return 0
	umount "$cache/base/proc" "$cache/base/sys" 2>/dev/null || true
	rm -rf --one-file-system "$cache/base"
}

# What the guest needs of Debian, without what only a person would read.
make_base() {
	echo "kernels: making the guest's base (about two minutes, once)"
	remove_base
	debootstrap --variant=minbase --include=python3,libbpf1,iproute2,kmod \
		bookworm "$cache/base" >"$work/debootstrap.log" 2>&1 || {
		tail -n 20 "$work/debootstrap.log" >&2
		fail "debootstrap failed"
	}
	(
		cd "$cache/base"
		rm -rf usr/share/doc usr/share/locale usr/share/man usr/share/zoneinfo usr/share/perl* \
			usr/lib/*/perl* usr/lib/*/gconv var/cache/* var/lib/apt var/lib/dpkg
		archive
	) >"$cache/base.new"
	mv "$cache/base.new" "$cache/base.cpio"
	remove_base
}

newest() { # the newest package that Debian 12 has of a kernel series, by a pattern for its name
	apt-cache search --names-only "^linux-image-$1-cloud-amd64\$" | cut -d ' ' -f 1 |
		sort -V | tail -n 1
}

# Unpacks module $1 and, before it, those that it depends on, in the order in which they load.
add_module() {
	set -- "$1" "$(find tree/lib/modules -name "$1.ko*" | head -n 1)"
	[ -n "$2" ] || fail "no module $1 in this kernel's package"
	[ -z "$(find kernel/modules -name "*-$1.ko")" ] || return 0
	for needed in $(modinfo -F depends "$2" | tr , ' '); do
		add_module "$needed"
	done
	set -- "$1" "$2" "kernel/modules/$(printf %02d "$(ls kernel/modules | wc -l)")-$1.ko"
	# Debian packs the modules of later kernels.
	case $2 in
	*.xz) xz -dc "$2" >"$3" ;;
	*) cp "$2" "$3" ;;
	esac
}

# Unpacks kernel and modules of package $1 into $cache/$1.
fetch_kernel() {
	[ "$(cat "$cache/$1/kinds" 2>/dev/null)" = "$kinds" ] && return
	mkdir -p "$work/$1"
	(
		cd "$work/$1"
		apt-get download -qq -o APT::Sandbox::User=root "$1"
		dpkg -x ./*.deb tree
		mkdir -p kernel/modules
		for kind in $kinds; do
			add_module "$kind"
		done
		mv tree/boot/vmlinuz-* kernel/vmlinuz
		echo "$kinds" >kernel/kinds
	)
	rm -rf "${cache:?}/$1"
	mv "$work/$1/kernel" "$cache/$1"
}

# flowstream, its check and the libraries that it imports there; captures, and a digest of the
# records that they give here.
make_overlay() {
	packages=$("$top/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	mkdir -p "$1/flowstream"
	cp "$here/init" "$1/init"
	cp "$here"/*.py "$1/flowstream/"
	cp -r "$top/flowstream" "$1/flowstream/"
	for package in msgspec numpy numpy.libs pygments pyroute2 rich structlog \
		typing_extensions.py uvloop; do
		cp -r "$packages/$package" "$1/flowstream/"
	done
	mkdir "$1/captures"
	cp "$top"/tests/traces/*.pcap "$1/captures/"
	(cd "$1/captures" && "$top/.venv/bin/flowstream" pcap *.pcap --sink stdout: | sha256sum) \
		>"$1/captures.sha256"
	find "$1" \( -name __pycache__ -o -name tests -o -name '*.a' \) -prune -exec rm -rf {} +
}

boot() { # kernel package $1
	rm -rf "$work/overlay/modules"
	cp -r "$cache/$1/modules" "$work/overlay/"
	{ cat "$cache/base.cpio" && cd "$work/overlay" && archive; } >"$work/initrd"
	timeout "$boot_timeout_s" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 \
		-nographic -no-reboot -nic none -kernel "$cache/$1/vmlinuz" -initrd "$work/initrd" \
		-append "console=ttyS0 quiet rdinit=/init panic=1" </dev/null >"$work/console" 2>&1 || true
	tr -d '\r' <"$work/console" | sed -n "s#^.*kernel-check: \(ok .*\|FAIL .*\|[0-9].*\)#$2: \1#p"
	if ! tr -d '\r' <"$work/console" | grep -qx 'kernel-check: exit 0'; then
		tr -d '\r' <"$work/console" | tail -n 40 >&2
		echo "$2: FAIL  (its console's end is above)"
		return 1
	fi
}

[ -e "$cache/base.cpio" ] || make_base
make_overlay "$work/overlay"
status=0
for series in 6.1 6.12; do
	case $series in
	6.1) package=$(newest '6\.1\.0-[0-9]+') ;;
	6.12) package=$(newest '6\.12\.[0-9]+\+deb12') ;;
	esac
	[ -n "$package" ] || fail "apt knows no Linux $series for Debian 12: apt-get update"
	fetch_kernel "$package"
	boot "$package" "Linux $series" || status=1
done
exit $status
