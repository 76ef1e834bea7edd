# Runs in the guest: makes a quiet veth pair, runs the checks, reads captures.
export PYTHONPATH=/flowstream
echo 2 >/proc/sys/kernel/unprivileged_bpf_disabled
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add seen type veth peer name sender
ip link set seen up
ip link set sender up
python3 -B /flowstream/check.py seen sender
status=$?
cd /captures || status=1
python3 -B -m flowstream pcap *.pcap --sink stdout: >/tmp/records && [ -s /tmp/records ] &&
	sha256sum </tmp/records | cmp /captures.sha256 - &&
	echo "check: ok    captures: the same $(wc -l </tmp/records) records as on the host" ||
	{ status=1 && echo "check: FAIL  captures: other records than on the host"; }
