# What a guest needs for tests/machines/guest.sh. Sourced after tests/kernels/overlay.sh.

# Tests of all that handles octets of the kernel or of packets, but for those that compare with scapy,
# which on a big-endian machine cannot read the routes that it asks for at once.
units="aggregate community_id encode filter_code kernel_counter kernel_descriptors kernel_flow \
	kernel_maps kernel_ringbuf link_types partition tc_messages"

installed() { # version of a library here
	"$top/.venv/bin/python" -c \
		'import sys, importlib.metadata as m; print(m.version(sys.argv[1]))' "$1"
}

filters() {
	cat <<-'END'
		port 443
		tcp[tcpflags] & (tcp-syn|tcp-fin) != 0
		ip6
		vlan
		vlan and udp
		ip[2:2] > 100
		host 10.0.0.1 or net 192.0.2.0/24
		ip6 proto 17 or icmp6
		greater 200
		ether[6:4] & 0xff00 = 0x1200
		(ip[6:2] & 0x1fff) = 0 and not port 53
		udp[4:2] + 3 > 0x40
	END
}

# Fills directory $1 as checks_overlay does, with checks $2…; adds what captures give here.
machine_overlay() {
	overlay=$1
	shift
	checks_overlay "$overlay" "$@" "$top/tests/machines/guest.sh"
	set -- "$overlay"
	for package in aiokafka async_timeout packaging; do
		cp -r "$packages/$package" "$1/flowstream/"
	done
	(
		cd "$1/captures"
		PYTHONPATH=$top:$top/tests/kernels \
			"$top/.venv/bin/python" "$top/tests/machines/octets.py" *.pcap
	) >"$1/msgpack.sha256"
	filters | while read -r expression; do
		digest=$(digest_here "$1" --filter "$expression")
		echo "${digest%% *} $expression"
	done >"$1/filters"
	find "$1" \( -name '*-x86_64-linux-gnu.so' -o -name '*.abi3.so' \) -delete
}

# Adds the tests of ``units`` to directory $1, and the libraries that they import.
add_tests() {
	for package in communityid fastavro google scapy sortedcontainers; do
		cp -r "$packages/$package" "$1/flowstream/"
	done
	mkdir "$1/tests"
	cp -r "$top/tests/packets" "$top/tests/support" "$top/tests/traces" "$top"/tests/test_*.py "$1/tests/"
	for unit in $units; do
		echo "test_$unit.py"
	done >"$1/tests/units"
	# It needs a fixture of all tests'.
	echo "--deselect test_kernel_ringbuf.py::test_a_removed_attachment_keeps_no_mapping" \
		>>"$1/tests/units"
	find "$1" \( -name __pycache__ -o -name '*-x86_64-linux-gnu.so' -o -name '*.abi3.so' \) \
		-prune -exec rm -rf {} +
}
