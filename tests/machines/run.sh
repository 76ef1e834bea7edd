#!/bin/sh
# Boots machines of other architectures in qemu and runs the checks there, one after the other:
#   tests/machines/run.sh [ARCH…]
# Prints a line per machine and check; exit status 1 when one failed.
# To add a machine: a case in guest_machine (tools/guest.sh), and a script ARCH.sh beside this one
# that brings the libraries of its architecture and calls checks_boot for each kernel.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
status=0
for arch in ${*:-arm64 s390x}; do
	[ -x "$here/$arch.sh" ] || {
		echo "machines: no machine is known for $arch" >&2
		exit 2
	}
	"$here/$arch.sh" || status=1
done
exit $status
