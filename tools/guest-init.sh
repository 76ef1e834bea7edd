#!/bin/sh
# First process of a guest (tools/guest.sh): loads its modules, runs /run.sh, powers off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs tmpfs /tmp
for module in /modules/*.ko; do
	[ ! -e "$module" ] || insmod "$module"
done
ip link set lo up
sh /run.sh
echo "guest: exit $?"
echo o >/proc/sysrq-trigger
# A first process must not end before the power is off.
exec sleep 60
