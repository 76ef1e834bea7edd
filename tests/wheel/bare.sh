#!/usr/bin/env bash
# Runs an installed agent on a veth, in mount and network namespaces of its own, in which nothing
# can be compiled. Prints what the audit says, or what failed.
#   unshare --mount --net tests/wheel/bare.sh VENV DIRECTORY
set -euo pipefail
venv=$1
recording=$2/recording
log=$2/log
pings=1009
peer=

fail() {
	echo "$*"
	exit 1
}

# What could compile, or bind to bcc, is hidden by empty files and directories.
for directory in /usr/include /usr/src /usr/lib/gcc /usr/lib/llvm-* /usr/lib/python3; do
	[ ! -d "$directory" ] || mount -t tmpfs none "$directory"
done
for file in /usr/bin/{cc,c++,gcc,g++,cpp,ld,as,clang}{,-[0-9]*} /usr/lib/*/lib{bcc,clang,LLVM}*.so*; do
	[ ! -f "$file" ] || mount --bind /dev/null "$file"
done
! "$venv/bin/python" -c 'import bcc' 2>/dev/null || fail "there is a bcc"

ip link set lo up
unshare --net sleep infinity &
peer=$!
trap 'kill "$peer" 2>/dev/null || true' EXIT
until [ "$(readlink "/proc/$peer/ns/net")" != "$(readlink /proc/$$/ns/net)" ]; do
	read -rt 0.01 <> <(:) || true
done
within() {
	nsenter --target "$peer" --net "$@"
}
for namespace in env within; do
	"$namespace" sysctl -qw net.ipv6.conf.default.disable_ipv6=1
done
ip link add seen type veth peer name sender netns "$peer"
ip address add 10.77.0.1/24 dev seen
ip link set seen up
within ip address add 10.77.0.2/24 dev sender
within ip link set sender up

rm -rf "$recording"
"$venv/bin/flowstream" check -i seen --sink "file:$recording" >"$log" ||
	fail "flowstream check: $(<"$log")"
"$venv/bin/flowstream" run -i seen --sink "file:$recording" --user nobody --log-format json >"$log" 2>&1 &
agent=$!
deadline=$((SECONDS + 60))
until grep -q '"publishing"' "$log"; do
	[ $SECONDS -lt $deadline ] && kill -0 "$agent" 2>/dev/null ||
		fail "the agent does not publish: $(<"$log")"
	read -rt 0.1 <> <(:) || true
done
within ping -q -c "$pings" -i 0.002 10.77.0.1 >/dev/null
kill -TERM "$agent"
wait "$agent" || fail "the agent's exit status is $?: $(<"$log")"
"$venv/bin/flowstream" audit "file:$recording" >"$log" || fail "the audit: $(<"$log")"
published=$(sed -n 's/,//g; s/^| *| in published flows *| *\([0-9]*\) |.*/\1/p' "$log")
[ "$published" = "$pings" ] || fail "$published of $pings pings published: $(<"$log")"
echo "$(sed -n 's/^holds: //p' "$log"); $published pings in flows"
