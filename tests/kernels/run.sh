#!/bin/sh
# Boots Debian's 6.1 and 6.12 kernels in qemu and runs check.py, links.py, skbs.py and runs.py in
# each; and a capture must give the same records there as here. Prints a line per kernel and check;
# exit status 1 when one failed.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
room=kernels
boot_timeout_s=1200
. "$top/tools/guest.sh"
. "$top/tests/kernels/overlay.sh"

[ "$(dpkg --print-architecture)" = amd64 ] || fail "only amd64's kernels are known here"
guest_use amd64
guest_base checks python3 libbpf1 libseccomp2 libstdc++6
checks_overlay "$work/overlay" links.py skbs.py runs.py
# runs.py records and audits.
for package in aiokafka async_timeout cramjam msgspec numpy numpy.libs packaging uvloop; do
	cp -r "$packages/$package" "$work/overlay/flowstream/"
done
status=0
checks_boot "Linux 6.1" '6\.1\.0-[0-9]+-cloud-amd64' checks "$work/overlay"
checks_boot "Linux 6.12" '6\.12\.[0-9]+\+deb12-cloud-amd64' checks "$work/overlay"
exit $status
