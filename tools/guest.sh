# Guests in qemu: machines of other kernels or other architectures, of Debian 12's packages.
# Emulated: no /dev/kvm, no network. Sourced by scripts that set `top` and `room`, the name that
# their messages begin with. To add a machine: a case in guest_machine, and `guest_use ARCH`,
# `guest_kernel SERIES`, `guest_base NAME PACKAGES`, `guest_boot` in the script that boots it.
#
# What it keeps for an architecture is in .cache/guests/ARCH.

fail() {
	echo "$room: $*" >&2
	exit 1
}

# The machine for Debian's architecture $arch: qemu, its package and options, the console.
guest_machine() {
	case $arch in
	amd64) qemu="qemu-system-x86_64 -cpu max" package=qemu-system-x86 console=ttyS0 ;;
	arm64) qemu="qemu-system-aarch64 -M virt -cpu max,pauth-impdef=on" package=qemu-system-arm console=ttyAMA0 ;;
	s390x) qemu="qemu-system-s390x -cpu max" package=qemu-system-misc console=ttysclp0 ;;
	*) fail "no machine is known for $arch" ;;
	esac
}

# Prepares architecture $1: sets arch, cache and work (removed at the end); apt knows its packages.
guest_use() {
	arch=$1
	cache=$top/.cache/guests/$arch
	[ "$(id -u)" -eq 0 ] || fail "run as root: files of the guest are root's"
	guest_machine
	"$top/tools/install-packages.sh" "${qemu%% *}=$package" cpio=cpio xz=xz-utils modinfo=kmod
	mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
	exec 9>"$cache/lock"
	flock 9
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	for suite in debian/bookworm debian/bookworm-updates debian/bookworm-backports \
		debian-security/bookworm-security; do
		echo "deb [signed-by=$keyring] http://deb.debian.org/${suite%/*} ${suite#*/} main"
	done >"$cache/apt/sources.list"
	: >"$cache/apt/status"
	cat >"$cache/apt/apt.conf" <<-END
		APT::Architecture "$arch";
		APT::Architectures { "$arch"; };
		APT::Sandbox::User "root";
		APT::Install-Recommends "false";
		Dir::State "$cache/apt";
		Dir::State::status "$cache/apt/status";
		Dir::Cache "$cache/apt";
		Dir::Etc::sourcelist "$cache/apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
	END
	export APT_CONFIG="$cache/apt/apt.conf"
}

# Reads what packages there are, when nothing is known yet or something is to be fetched.
guest_update() {
	[ -z "${updated:-}" ] || return 0
	apt-get update -qq >"$work/update.log" 2>&1 || {
		cat "$work/update.log" >&2
		fail "apt-get update failed"
	}
	updated=yes
}

archive() { # of the current directory, to standard output
	find . -path './dev/*' -prune -o -path './proc/*' -prune -o -path './sys/*' -prune -o -print0 |
		cpio --null --create --format=newc --quiet
}

# Compiles Python sources of directories $@ below the current one, for a guest that has the version
# of Python that Debian has here: it would take longer there.
compile_python() {
	/usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash -s "$PWD" "$@" \
		>/dev/null 2>&1 || true # some are tests of what cannot be compiled
}

# Makes $cache/$1.cpio: packages $2… and what they need, without what only a person would read.
# They are unpacked, and none of their scripts is run.
guest_base() {
	name=$1
	shift
	flock 9
	packages="dash coreutils mount diffutils kmod iproute2 base-passwd libc-bin $*"
	[ "$(cat "$cache/$name.packages" 2>/dev/null)" != "$packages" ] || return 0
	echo "$room: making the guest's base $name for $arch (once)"
	guest_update
	rm -f "$cache/apt/archives"/*.deb
	apt-get install -qq --download-only $packages >"$work/base.log" 2>&1 || {
		cat "$work/base.log" >&2
		fail "fetching the packages of base $name failed"
	}
	mkdir "$work/base"
	(
		cd "$work/base"
		mkdir -p proc sys dev tmp run root etc usr/bin usr/sbin usr/lib
		for merged in bin sbin lib; do
			ln -s "usr/$merged" "$merged"
		done
		# Where ld.so of some architectures is.
		[ "$arch" != amd64 ] || { mkdir usr/lib64 && ln -s usr/lib64 lib64; }
		for file in "$cache/apt/archives"/*.deb; do
			dpkg-deb -x "$file" .
		done
		ln -sf dash usr/bin/sh
		# What update-alternatives would choose, for numpy.
		for library in usr/lib/*/blas/libblas.so.3 usr/lib/*/lapack/liblapack.so.3; do
			[ ! -e "$library" ] || ln -s "/$library" "$(dirname "$library")/.."
		done
		cp usr/share/base-passwd/passwd.master etc/passwd
		cp usr/share/base-passwd/group.master etc/group
		rm -rf usr/share/doc usr/share/locale usr/share/man usr/share/zoneinfo usr/share/perl* \
			usr/lib/*/perl* usr/lib/*/gconv
		compile_python usr/lib/python3*
		archive
	) >"$cache/$name.new"
	rm -rf "$work/base" "$cache/apt/archives"/*.deb
	mv "$cache/$name.new" "$cache/$name.cpio"
	echo "$packages" >"$cache/$name.packages"
}

# Unpacks module $1 and, before it, those that it depends on, in the order in which they load.
add_module() {
	set -- "$1" "$(find tree -path '*/modules/*' -name "$1.ko*" | head -n 1)"
	# Else it is built in.
	[ -n "$2" ] || return 0
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

# Fetches the newest kernel whose package has a name like pattern $1, with modules $2… and those
# that they need; `kernel` becomes its directory.
guest_kernel() {
	pattern=$1
	shift
	flock 9
	[ -s "$cache/apt/pkgcache.bin" ] || guest_update
	package=$(apt-cache search --names-only "^linux-image-$pattern\$" | cut -d ' ' -f 1 |
		sort -V | tail -n 1)
	[ -n "$package" ] || fail "apt knows no kernel linux-image-$pattern for $arch"
	kernel=$cache/$package-$(echo "$*" | cksum | cut -d ' ' -f 1)
	[ ! -d "$kernel" ] || return 0
	guest_update
	mkdir -p "$work/$package/kernel/modules"
	(
		cd "$work/$package"
		apt-get download -qq "$package"
		dpkg-deb -x ./*.deb tree
		for kind; do
			add_module "$kind"
		done
		mv tree/boot/vmlinu?-* kernel/vmlinuz
	)
	mv "$work/$package/kernel" "$kernel"
	rm -rf "${work:?}/$package"
}

# Boots $kernel with base $1 and the files of directory $2 over it, among them run.sh, which its
# first process runs; the console is in $work/console. Further arguments are qemu's. False unless
# run.sh ended with 0 within boot_timeout_s.
guest_boot() {
	base=$1
	overlay=$2
	shift 2
	rm -rf "$overlay/modules"
	cp -r "$kernel/modules" "$overlay/"
	install -m 755 "$top/tools/guest-init.sh" "$overlay/init"
	{ cat "$cache/$base.cpio" && cd "$overlay" && archive; } >"$work/initrd"
	cp "$kernel/vmlinuz" "$work/"
	# Another guest may be made from what is kept.
	flock -u 9
	timeout "$boot_timeout_s" nice $qemu -accel tcg,thread=multi -m 3000 -smp 2 \
		-nographic -no-reboot -nic none -kernel "$work/vmlinuz" -initrd "$work/initrd" \
		-append "console=$console quiet rdinit=/init panic=1 ${append:-}" \
		"$@" </dev/null >"$work/console.raw" 2>&1 9>&- || true
	tr -d '\r' <"$work/console.raw" >"$work/console"
	grep -qx 'guest: exit 0' "$work/console" || {
		tail -n 40 "$work/console" >&2
		return 1
	}
}
