# Runs in the guest after tests/kernels/guest.sh: filters, and on big-endian machines the tests of
# all that handles octets of the kernel or of packets.
digest() { # of the records of the captures, with further options of pcap
	# Not to the console: on a terminal there is a progress bar.
	python3 -B -m flowstream pcap *.pcap --sink stdout: "$@" 2>/tmp/errors | sha256sum
}
[ "$(python3 -B /flowstream/octets.py *.pcap 2>/tmp/errors)" = "$(cat /msgpack.sha256)" ] &&
	echo "check: ok    captures in MessagePack: the same octets" || {
	status=1
	cat /tmp/errors
	echo "check: FAIL  captures in MessagePack: other octets than on the host"
}
filters=0
while read -r expected expression; do
	[ "$(digest --filter "$expression")" = "$expected  -" ] && filters=$((filters + 1)) || {
		status=1
		cat /tmp/errors
		echo "check: FAIL  filter $expression: other records than on the host"
	}
done </filters
echo "check: ok    filters: $filters give the same records"
# For big-endian machines alone: on others Python's code does what it does on the host.
[ -d /tests ] || exit $status
cd /tests
# hypothesis minds less in CI how long examples take.
CI=true PYTHONPATH=/flowstream:/tests python3 -B -m pytest -q -c /dev/null --rootdir /tests --noconftest \
	-p no:cacheprovider $(cat /tests/units) >/tmp/units 2>&1 &&
	echo "check: ok    tests: $(tail -n 1 /tmp/units)" || {
	status=1
	tail -n 100 /tmp/units
	echo "check: FAIL  tests: $(tail -n 1 /tmp/units)"
}
