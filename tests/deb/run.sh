#!/bin/bash
# Installs the Debian package in a fresh Debian 12 without any network and with systemd as
# process 1, in namespaces of its own; runs its services under traffic, upgrades, removes and
# purges it. Every packet must be accounted for. The exit status is 1 on any failure.
#   tests/deb/run.sh PACKAGE.deb
# debootstrap makes the system, which is kept in .cache/deb. Processes run under everything that
# the unit says, since it is systemd itself that starts them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=$top/.cache/deb
state=/var/lib/flowstream
recording=file:$state/flowstream-recording

fail() {
	echo "deb: FAIL  $*" >&2
	exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run as root"
[ $# -eq 1 ] || fail "which package?"
package=$(readlink -f "$1")
"$top/tools/install-packages.sh" debootstrap lintian
mkdir -p "$cache"
# Mounts go with this process.
[ "${DEB_MOUNTS:-}" = own ] || DEB_MOUNTS=own exec unshare --mount "$0" "$@"
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d)
cgroup=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/flowstream-deb-$$
booted=

finish() {
	# With its process 1 all of the system's processes end.
	[ -z "$booted" ] || { kill -KILL "$booted" && wait "$booted"; } 2>/dev/null || true
	local deadline=$((SECONDS + 30))
	until [ ! -d "$cgroup" ] || [ $SECONDS -ge $deadline ]; do
		find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
		pause
	done
	umount -R "$work/root" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

pause() { # 100 ms
	read -rt 0.1 <> <(:) || true
}

# until_true SECONDS COMMAND…
until_true() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || return 1
		pause
	done
}

make_base() {
	echo "deb: making Debian 12 by debootstrap (about two minutes, once)"
	rm -rf --one-file-system "$cache/new"
	debootstrap --variant=minbase \
		--include=dbus,ethtool,iproute2,iputils-ping,libbpf1,libpcap0.8,libseccomp2,procps,python3,systemd,systemd-sysv \
		bookworm "$cache/new" >"$cache/debootstrap.log" 2>&1 ||
		{ tail -n 20 "$cache/debootstrap.log" >&2; fail "debootstrap"; }
	rm -rf "$cache/new/var/cache/apt/archives"/*.deb
	mv "$cache/new" "$cache/base"
}

# As a later version: the same files, another number.
make_upgrade() {
	dpkg-deb -R "$package" "$work/unpacked"
	sed -i 's/^Version: .*/&+later/' "$work/unpacked/DEBIAN/control"
	dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/unpacked" "$work/root/root/later.deb" >/dev/null
	rm -rf "$work/unpacked"
}

boot() {
	mkdir "$cgroup"
	(
		echo "$BASHPID" >"$cgroup/cgroup.procs"
		exec unshare --mount --uts --ipc --pid --fork --kill-child --net --cgroup \
			"$here/boot.sh" "$work/root" </dev/null >"$work/boot.log" 2>&1 9>&-
	) &
	booted=$!
	until_true 60 init || fail "systemd: $(<"$work/boot.log")"
	until_true 60 inside systemctl is-system-running --wait ||
		fail "$(inside systemctl --failed --no-pager)"
}

init() { # the process 1
	systemd=$(cat "/proc/$booted/task/$booted/children")
	[ "$(cat "/proc/${systemd% }/comm")" = systemd ]
}

inside() {
	nsenter -t "${systemd% }" -m -u -i -n -p -C -r -w \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

make_network() {
	inside ip netns add far
	inside sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
	inside ip netns exec far sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
		net.ipv6.conf.default.disable_ipv6=1
	inside ip link add seen type veth peer name sender netns far
	inside ip address add 10.77.0.1/24 dev seen
	inside ip link set seen up
	inside ip -n far address add 10.77.0.2/24 dev sender
	inside ip -n far link set sender up
}

property() { # of the service
	inside systemctl show --property "$1" --value "${2:-flowstream}"
}

journal() {
	inside journalctl --no-pager -o cat -u "${1:-flowstream}"
}

logged() {
	[[ $(journal) == *$1* ]]
}

start() {
	inside systemctl start "$1" || fail "start $1: $(journal "$1")"
	[ "$(property ActiveState "$1")" = active ] || fail "$1 is not active: $(journal "$1")"
}

# Nobody is root, and the attacher alone has capabilities: BPF, NET_ADMIN and PERFMON.
check_processes() {
	local agent attacher
	agent=$(property MainPID)
	attacher=$(inside pgrep --parent "$agent" --exact flow-attacher) || fail "no attacher"
	inside grep -qE "^Uid:\s+$(inside id -u flowstream)\s" "/proc/$agent/status" ||
		fail "the agent is not flowstream"
	[ "$(inside awk '/^Cap(Prm|Eff|Amb):/ { print $2 }' "/proc/$agent/status" | sort -u)" = \
		0000000000000000 ] || fail "the agent has capabilities"
	[ "$(inside awk '/^CapPrm:/ { print $2 }' "/proc/$attacher/status")" = 000000c000001000 ] ||
		fail "the attacher's capabilities"
	[ "$(inside awk '/^Seccomp:/ { print $2 }' "/proc/$agent/status" "/proc/$attacher/status" |
		xargs)" = "2 2" ] || fail "system calls are not filtered"
	! logged attacher_calls_not_restricted || fail "the attacher's own filter"
}

begin_traffic() {
	inside ip netns exec far ping -q -i 0.005 10.77.0.1 >"$work/ping" 9>&- &
	pings=$!
	until_true 30 received 100 || fail "no traffic"
}

received() {
	[ "$(inside cat /sys/class/net/seen/statistics/rx_packets)" -gt "$1" ]
}

end_traffic() {
	inside pkill -INT -x ping
	wait "$pings" || fail "the pings: $(<"$work/ping")"
	sent=$(sed -n 's/^\([0-9]*\) packets transmitted, \1 received.*/\1/p' "$work/ping")
	[ -n "$sent" ] || fail "pings were lost: $(<"$work/ping")"
}

# The last run closes the chain: with a pattern that is no interface's.
audit() {
	inside sh -c "cd $state && exec flowstream run --config /etc/flowstream/flowstream.toml \
		-i 'none*' --duration 2" >"$work/last" 2>&1 || fail "the last run: $(<"$work/last")"
	inside flowstream audit "$recording" >"$work/audit" 2>&1 ||
		fail "the audit: $(<"$work/audit")"
	grep -q "^holds: .* difference 0$" "$work/audit" || fail "the audit: $(<"$work/audit")"
	published=$(inside flowstream cat "$recording" --where 'proto == 1' |
		sed -n 's/.*"packets": *\([0-9]*\).*/\1/p' | awk '{ sum += $1 } END { print sum }')
	[ "$published" = "$sent" ] || fail "$published of $sent pings published"
}

[ -d "$cache/base" ] || make_base
lintian --fail-on error,warning --allow-root "$package" || fail "lintian"
echo "deb: ok    lintian finds nothing"
mkdir "$work/upper" "$work/scratch" "$work/root"
mount -t overlay -o "lowerdir=$cache/base,upperdir=$work/upper,workdir=$work/scratch" \
	overlay "$work/root"
cp "$package" "$work/root/root/flowstream.deb"
make_upgrade
boot
echo "deb: ok    systemd runs as process 1"

inside dpkg -i /root/flowstream.deb >"$work/dpkg" 2>&1 || fail "dpkg: $(<"$work/dpkg")"
[ "$(property ActiveState)" = inactive ] || fail "it runs without having been configured"
inside flowstream --version >/dev/null || fail "flowstream --version"
inside sh -c 'test -s /usr/share/man/man1/flowstream-run.1.gz -a "$(stat -c %U:%G:%a /etc/flowstream)" = root:flowstream:750' ||
	fail "the files"
echo "deb: ok    installed without a network"

make_network
inside sed -i 's/^#interface = .*/interface = ["seen"]/; s/^#interval = .*/interval = 1/' \
	/etc/flowstream/flowstream.toml
start flowstream
check_processes
begin_traffic
until_true 30 eval '[[ $(property StatusText) == "1 interface: "[0-9]* ]]' ||
	fail "the status: $(property StatusText)"
echo "deb: ok    started, unprivileged; systemctl shows \"$(property StatusText)\""

inside systemctl reload flowstream || fail "reload: $(journal)"
logged '"reloaded"' || fail "not reloaded: $(journal)"
before=$(property MainPID)
inside dpkg -i /root/later.deb >"$work/dpkg" 2>&1 || fail "dpkg: $(<"$work/dpkg")"
[ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != "$before" ] ||
	fail "the upgrade did not restart the service: $(journal)"
inside systemctl restart flowstream || fail "restart: $(journal)"
logged '"took_over"' || fail "a gap: $(journal)"
end_traffic
inside systemctl stop flowstream
audit
echo "deb: ok    reloaded, upgraded and restarted while $sent packets came: $(grep '^holds: ' "$work/audit" | tail -n 1)"

inside sh -c 'sed "s|/bpf/flowstream|&-blue|" /etc/flowstream/flowstream.toml >/etc/flowstream/blue.toml'
start flowstream@blue
inside systemctl stop flowstream@blue
echo "deb: ok    flowstream@blue runs with a configuration of its own"

inside flowstream demo >"$work/demo" 2>&1 || fail "the demo: $(<"$work/demo")"
grep -q "^Every packet is accounted for" "$work/demo" || fail "the demo: $(<"$work/demo")"
echo "deb: ok    the demo accounts for every packet"

inside mkdir -p /etc/systemd/system/flowstream.service.d
printf '[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\nRestartSec=0\n' |
	inside tee /etc/systemd/system/flowstream.service.d/soon.conf >/dev/null
inside systemctl daemon-reload
start flowstream
inside kill -STOP "$(property MainPID)"
until_true 60 eval '[ "$(property NRestarts)" = 1 ] && [ "$(property ActiveState)" = active ]' ||
	fail "an agent that hangs: $(journal)"
echo "deb: ok    an agent that hangs is restarted"

inside dpkg --remove flowstream >"$work/dpkg" 2>&1 || fail "dpkg --remove: $(<"$work/dpkg")"
! inside pgrep -x flow-attacher >/dev/null || fail "processes are left"
[[ $(inside ip link show dev seen) != *xdp* ]] || fail "a program is left"
inside test -d "$state/flowstream-recording" || fail "the recording is gone"
inside dpkg --purge flowstream >"$work/dpkg" 2>&1 || fail "dpkg --purge: $(<"$work/dpkg")"
for left in "$state" /etc/flowstream /usr/lib/flowstream /sys/fs/bpf/flowstream; do
	! inside test -e "$left" || fail "$left is left"
done
! inside id flowstream >/dev/null 2>&1 || fail "the user is left"
echo "deb: ok    removed and purged"
