#!/bin/bash
# Runs README's two commands as a newcomer does: in a fresh Debian 12, made by debootstrap, from a
# clone below /root, which only root can read. Everything is removed afterwards, except the
# base system in .cache/newcomer. The exit status is 1 when a command fails.
#   tests/newcomer/run.sh [COMMAND…]    default: "make demo" "make test"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=$top/.cache/newcomer
[ $# -gt 0 ] || set -- "make demo" "make test"

fail() {
	echo "newcomer: FAIL  $*" >&2
	exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run as root"
"$top/tools/install-packages.sh" debootstrap
mkdir -p "$cache"
# Mounts go with this process.
[ "${NEWCOMER_MOUNTS:-}" = own ] || NEWCOMER_MOUNTS=own exec unshare --mount "$0" "$@"
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d)
trap 'umount -R "$work/root" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

make_base() {
	echo "newcomer: making Debian 12 by debootstrap (about two minutes, once)"
	rm -rf --one-file-system "$cache/new"
	debootstrap --variant=minbase --include=ca-certificates,git,make bookworm "$cache/new" \
		>"$cache/debootstrap.log" 2>&1 ||
		{ tail -n 20 "$cache/debootstrap.log" >&2; fail "debootstrap"; }
	rm -rf "$cache/new/var/cache/apt/archives"/*.deb
	mv "$cache/new" "$cache/base"
}

# The new system reaches the package servers as this one does: their addresses, certificates.
copy_client_settings() {
	local root=$1 file number=0
	rm -f "$root/etc/apt/sources.list"
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} \
		/etc/apt/auth.conf.d/* /etc/apt/keyrings/* /etc/pip.conf /etc/hosts /etc/resolv.conf \
		"$HOME/.config/pip/pip.conf" "$HOME/.m2/settings.xml"; do
		[ ! -f "$file" ] || install -D -m 644 "$file" "$root$file"
	done
	for file in $(grep -l '^Acquire::' /etc/apt/apt.conf.d/* 2>/dev/null || true); do
		install -D -m 644 "$file" "$root$file"
	done
	# One file a certificate, as update-ca-certificates wants them.
	mkdir -p "$root/usr/local/share/ca-certificates"
	awk -v to="$root/usr/local/share/ca-certificates/host-" \
		'/BEGIN CERT/ {n++; out = to n ".crt"} out {print > out} /END CERT/ {close(out); out = ""}' \
		/etc/ssl/certs/ca-certificates.crt
	chroot "$root" update-ca-certificates >/dev/null 2>&1
}

[ -d "$cache/base" ] || make_base
mkdir "$work/upper" "$work/scratch" "$work/root"
mkdir "$work/upper/changes" "$work/upper/work"
mount -t overlay -o "lowerdir=$cache/base,upperdir=$work/upper/changes,workdir=$work/upper/work" \
	overlay "$work/root"
mount -t proc proc "$work/root/proc"
mount --rbind /sys "$work/root/sys"
mount --rbind /dev "$work/root/dev"
mkdir -p "$work/root/run/netns"
copy_client_settings "$work/root"
chmod 700 "$work/root/root"
git clone -q --no-hardlinks "$top" "$work/root/root/flowstream"

settings=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
while IFS= read -r setting; do
	settings+=("$setting")
done < <(env | grep -iE '^(PIP_DEFAULT_TIMEOUT|(https?|no)_proxy)=' || true)

for command; do
	SECONDS=0
	chroot "$work/root" env -i "${settings[@]}" sh -c "cd /root/flowstream && $command" ||
		fail "$command, after $SECONDS s"
	echo "newcomer: ok    $command, in $SECONDS s"
done
