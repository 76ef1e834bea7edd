# What a guest needs beside Debian's packages. Sourced after tools/guest.sh.

kinds="veth bonding 8021q ip_gre ipip sit wireguard tun sch_ingress cls_bpf cls_u32"

# Digest of the records that the captures in directory $1 give, by this checkout, with further
# options.
digest_here() {
	(
		cd "$1/captures"
		shift
		PYTHONPATH=$top exec "$top/.venv/bin/python" -m flowstream pcap *.pcap --sink stdout: "$@"
	) >"$work/records" 2>"$work/errors" || {
		cat "$work/errors" >&2
		fail "the captures cannot be read here"
	}
	sha256sum <"$work/records"
}

# flowstream, the checks and the libraries that they import, those of Python alone, into directory
# $1; captures, and a digest of the records that they give here. Libraries with code of the machine
# are the caller's: msgspec and numpy. $2… are checks beside those of all machines: a Python program of
# this directory, or the path of a script that runs on from guest.sh.
checks_overlay() {
	packages=$("$top/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	mkdir -p "$1/flowstream" "$1/captures"
	cp "$top/tests/kernels"/*.py "$1/flowstream/"
	cp -r "$top/flowstream" "$1/flowstream/"
	for package in pygments pyroute2 rich structlog typing_extensions.py; do
		cp -r "$packages/$package" "$1/flowstream/"
	done
	cp "$top"/tests/traces/*.pcap "$1/captures/"
	digest_here "$1" >"$1/captures.sha256"
	find "$1" \( -name __pycache__ -o -name tests -o -name '*.a' \) -prune -exec rm -rf {} +
	overlay=$1
	shift
	cp "$top/tests/kernels/guest.sh" "$overlay/run.sh"
	for check; do
		case $check in
		*.py) echo "python3 -B /flowstream/$check || status=1" ;;
		*) cat "$check" ;;
		esac >>"$overlay/run.sh"
	done
	echo 'exit $status' >>"$overlay/run.sh"
}

# Boots the newest kernel whose package has a name like pattern $2, with base $3 and overlay $4, and
# prints a line per check, with the machine's name $1 before each; status becomes 1 when one failed.
# $5… are further arguments of qemu.
checks_boot() {
	machine=$1 pattern=$2 base=$3 overlay=$4 booted=0
	shift 4
	guest_kernel "$pattern" $kinds
	guest_boot "$base" "$overlay" "$@" || booted=$?
	sed -n "s#^.*check: \(ok .*\|FAIL .*\|left out .*\|[0-9].*\)#$machine: \1#p" "$work/console"
	[ "$booted" -eq 0 ] || {
		status=1
		echo "$machine: FAIL  (its console's end is above)"
	}
}
