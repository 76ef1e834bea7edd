#!/bin/sh
# Compiles kernel programs by bcc on a big-endian machine: Debian's s390x in qemu.
#   tools/compile-big-endian.sh DIRECTORY
# Each line of DIRECTORY/builds is NAME SOURCE [DEFINE…]; what bcc_child.py prints of each build
# is afterwards in DIRECTORY/NAME.json.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
room=generate
boot_timeout_s=1200
. "$top/tools/guest.sh"

builds=$1/builds
out=$1
guest_use s390x
guest_base compiler python3 python3-bpfcc gzip sed
guest_kernel '6\.1\.0-[0-9]+-s390x'
mkdir -p "$work/overlay"
cp -r "$top/bpf" "$top/flowstream/kernel/bcc_child.py" "$builds" "$work/overlay/"
cat >"$work/overlay/run.sh" <<'END'
while read -r name source defines; do
	python3 -I /bcc_child.py "/bpf/$source.c" /bpf /bpf/include $defines >"/tmp/$name" || exit 1
	gzip -c "/tmp/$name" | base64 | sed "s/^/object $name /"
done </builds
END
guest_boot compiler "$work/overlay" || fail "compiling failed: the end of the console is above"
while read -r name rest; do
	sed -n "s/^object $name //p" "$work/console" | base64 -d | gzip -dc >"$out/$name.json"
done <"$builds"
