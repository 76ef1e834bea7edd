# Runs in an arm64 guest: the agent of the image, whose file system is /image, observes a veth.
pings=1009
flowstream="chroot /image /opt/flowstream/bin/flowstream"
for place in proc sys dev; do
	mount --rbind "/$place" "/image/$place"
done
mount -t tmpfs tmpfs /image/tmp
mount -t tmpfs tmpfs /run
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip netns add far
ip link add seen type veth peer name sender netns far
ip address add 10.77.0.1/24 dev seen
ip -n far address add 10.77.0.2/24 dev sender
ip link set seen up
ip -n far link set sender up
$flowstream run --interface seen --sink file:/tmp/recording >/tmp/log 2>&1 &
agent=$!
# Logged after the privileges are dropped.
while :; do
	case $(cat /tmp/log) in
	*'"publishing"'*) break ;;
	esac
	kill -0 $agent || break
	sleep 0.1
done
ip netns exec far ping -q -c $pings -i 0.002 10.77.0.1
kill -TERM $agent
wait $agent && $flowstream audit file:/tmp/recording >/tmp/audit || {
	cat /tmp/log /tmp/audit
	echo "check: FAIL  image: the agent or its audit"
	exit 1
}
while read -r line; do
	case $line in
	"holds: "*) echo "check: ok    image: $line" ;;
	esac
done </tmp/audit
