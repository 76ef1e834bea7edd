#!/bin/sh
# Builds the image for arm64 on any machine (build-arm64.sh), and runs its agent in an arm64 guest:
# it observes a veth, and the audit of its recording must hold. Prints a line per check; exit status 1
# when one failed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
room=image
boot_timeout_s=900
. "$top/tools/guest.sh"
. "$top/tests/kernels/overlay.sh"

"$top/tools/install-packages.sh" buildah debootstrap qemu-aarch64-static=qemu-user-static
guest_use arm64
mkdir "$work/overlay"
python3 "$here/emulated.py" "$here/build-arm64.sh" "$top/.cache/image-arm64" \
	"$work/overlay/image" >"$work/build.log" 2>&1 || {
	tail -n 30 "$work/build.log" >&2
	fail "FAIL  building for arm64"
}
echo "arm64: ok    image: built, $(du -sm "$work/overlay/image" | cut -f 1) MB"
cp "$here/guest-arm64.sh" "$work/overlay/run.sh"
guest_base tools iputils-ping
status=0
checks_boot "arm64, Linux 6.1" '6\.1\.0-[0-9]+-arm64' tools "$work/overlay"
exit $status
