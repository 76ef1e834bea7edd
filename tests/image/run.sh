#!/bin/bash
# Builds the image with buildah and runs the agent in it with podman, without a Docker engine.
# The agent has exactly the capabilities of compose/compose.yaml, observes a veth in a network
# namespace of its own and publishes to a broker with the settings of the compose file; the
# audit of the topics must hold. Prints sizes and times; the exit status is 1 on any failure.
# debootstrap makes the base image; it is kept with all images in .cache/image.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=$top/.cache/image
base=docker.io/library/debian:bookworm-slim
image=localhost/flowstream:latest
sink=kafka://127.0.0.1:9092
build_timeout_s=900
run_timeout_s=60
pings=1009
most_octets=200000000

fail() {
	echo "image: FAIL  $*" >&2
	exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run as root"
"$top/tools/install-packages.sh" buildah podman debootstrap runc netavark uidmap ip=iproute2 \
	ping=iputils-ping jq=jq mvn=maven java=default-jre-headless
"$top/tests/broker/fetch.sh"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d)
namespaces=()
agent=
broker=
container=flowstream-image-$$

finish() {
	podman rm --force --ignore --time 0 "$container" >/dev/null 2>&1 || true
	[ -z "$broker" ] || { kill -KILL "$broker" && wait "$broker"; } 2>/dev/null || true
	for namespace in "${namespaces[@]}"; do
		ip netns delete "$namespace"
	done
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Storage of its own, without the parts of podman that need systemd. The state must outlive this
# run, because podman cleans up after a container that has already ended.
state=/run/flowstream-image-$(echo "$cache" | cksum | cut -d ' ' -f 1)
cat >"$work/storage.conf" <<EOF
[storage]
driver = "overlay"
graphroot = "$cache/storage"
runroot = "$state/storage"
EOF
cat >"$work/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1000:1000"]
pids_limit = 0
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "$state/libpod"
EOF
# Health checks are asked for below, not by timers of systemd.
export DISABLE_HC_SYSTEMD=true
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf

# Debian 12's podman 4.3 allows bpf(2) with CAP_SYS_ADMIN only. Add the rule that later versions
# and Docker have.
python3 - /usr/share/containers/seccomp.json >"$work/seccomp.json" <<'EOF'
import json, sys
profile = json.load(open(sys.argv[1]))
for rule in profile["syscalls"]:
    if "bpf" in rule["names"]:
        rule["names"].remove("bpf")
profile["syscalls"] += [
    {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
    {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_BPF"]}},
]
json.dump(profile, sys.stdout)
EOF

# debootstrap may leave /proc mounted, hence --one-file-system.
remove_base() {
	[ -d "$cache/base" ] || return 0
	umount "$cache/base/proc" "$cache/base/sys" 2>/dev/null || true
	rm -rf --one-file-system "$cache/base"
}

# Like the official image: minimal, without documentation, with security updates.
make_base() {
	echo "image: making $base by debootstrap (about two minutes, once)"
	remove_base
	debootstrap --variant=minbase bookworm "$cache/base" >"$work/debootstrap.log" 2>&1 ||
		{ tail -n 20 "$work/debootstrap.log" >&2; fail "debootstrap"; }
	(
		cd "$cache/base"
		if [ -e /etc/apt/sources.list.d/debian.sources ]; then
			cp /etc/apt/sources.list.d/debian.sources etc/apt/sources.list.d/
			rm -f etc/apt/sources.list
		fi
		rm -rf var/cache/apt/archives/* var/lib/apt/lists/* var/log/* \
			usr/share/doc/* usr/share/man/* usr/share/locale/* usr/share/info/*
		printf '%s\n' 'Dir::Cache::pkgcache "";' 'Dir::Cache::srcpkgcache "";' \
			'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };' \
			>etc/apt/apt.conf.d/docker-clean
		tar -c --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' .
	) | podman import --quiet - "$base" >/dev/null
	remove_base
}

# The host's certificates are mounted, so that the Dockerfile stays as users need it.
build() {
	printf '[global]\ncert = /run/host-ca.pem\n' >"$work/pip.conf"
	timeout "$build_timeout_s" buildah bud --quiet --format docker --isolation chroot --network host --pull-never \
		--layers --cap-add BPF,NET_ADMIN,PERFMON --build-arg OBJECT_CHECK=--check --build-arg "BASE=$base" \
		--security-opt "seccomp=$work/seccomp.json" \
		-v /etc/ssl/certs/ca-certificates.crt:/run/host-ca.pem:ro \
		-v "$work/pip.conf:/etc/pip.conf:ro" -t "$image" "$top" >"$work/build.log" 2>&1 ||
		{ tail -n 30 "$work/build.log" >&2; fail "building"; }
}

# Capabilities of the agent in the compose file.
mapfile -t capabilities < <(
	sed -n '/^  agent:/,/^  consumer:/ s/^      - \([A-Z_]*\) *#.*$\|^      - \([A-Z_]*\)$/\1\2/p' \
		"$top/compose/compose.yaml"
)

make_network() {
	local near=$container-near far=$container-far name
	for name in "$near" "$far"; do
		ip netns add "$name"
		namespaces+=("$name")
		ip netns exec "$name" sysctl -qw net.ipv6.conf.default.disable_ipv6=1
		ip -n "$name" link set lo up
	done
	ip -n "$near" link add seen type veth peer name sender netns "$far"
	ip -n "$near" address add 10.77.0.1/24 dev seen
	ip -n "$far" address add 10.77.0.2/24 dev sender
	ip -n "$near" link set seen up
	ip -n "$far" link set sender up
}

attached() {
	ip -n "${namespaces[0]}" link show dev seen | grep -q xdp
}

# Kafka without its container, with the settings that its image derives from the compose file's
# environment (KAFKA_LOG_DIRS becomes log.dirs).
start_broker() {
	local libs="$top/.cache/kafka/libs/*" deadline=$((SECONDS + 60))
	sed -n '/^  kafka:/,/^  agent:/ s/^      KAFKA_\([A-Z_]*\): /\1 /p' \
		"$top/compose/compose.yaml" | tr -d '"' | sed 's/${[A-Z_]*:-\([^}]*\)}/\1/g' |
		while read -r key value; do
			key=${key,,}
			echo "${key//_/.}=$value"
		done >"$work/server.properties"
	echo "log.dirs=$work/kafka" >>"$work/server.properties"
	java -cp "$libs" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAA \
		-c "$work/server.properties" >"$work/broker.log" 2>&1 ||
		{ cat "$work/broker.log" >&2; fail "the broker's settings"; }
	ip netns exec "${namespaces[0]}" java -Xmx512m -cp "$libs" kafka.Kafka \
		"$work/server.properties" >>"$work/broker.log" 2>&1 &
	broker=$!
	until ip netns exec "${namespaces[0]}" bash -c ': </dev/tcp/127.0.0.1/9092' 2>/dev/null; do
		[ $SECONDS -lt $deadline ] && kill -0 "$broker" 2>/dev/null ||
			{ tail -n 20 "$work/broker.log" >&2; fail "the broker did not start"; }
		pause
	done
}

pause() { # 100 ms
	read -rt 0.1 <> <(:) || true
}

# contained CAPABILITY... -- ARGUMENT...: run the agent in a container as in the compose file.
contained() {
	local options=()
	while [ "$1" != -- ]; do
		options+=(--cap-add "$1")
		shift
	done
	shift
	timeout "$run_timeout_s" podman run --name "$container" --replace --cap-drop ALL \
		"${options[@]}" --network "ns:/run/netns/${namespaces[0]}" --read-only \
		--security-opt no-new-privileges --security-opt "seccomp=$work/seccomp.json" \
		-v /etc/machine-id:/etc/machine-id:ro "$image" "$@"
}

run_agent() {
	contained "${capabilities[@]}" -- run --interface=seen --sink="$sink" \
		--metrics=127.0.0.1:9435 >"$work/agent.log" 2>&1 &
	agent=$!
	local deadline=$((SECONDS + 30))
	# Logged after the privileges are dropped.
	until grep -qs '"publishing"' "$work/agent.log"; do
		[ $SECONDS -lt $deadline ] && kill -0 "$agent" 2>/dev/null ||
			fail "the agent does not publish: $(<"$work/agent.log")"
		pause
	done
	attached || fail "no program is on the interface"
	podman healthcheck run "$container" >"$work/health" 2>&1 ||
		fail "the health check: $(<"$work/health")"
	local status
	status=/proc/$(podman inspect --format '{{.State.Pid}}' "$container")/status
	[ "$(awk '/^Uid:/ { print $3 } /^Cap(Prm|Eff):/ { print $2 }' "$status" | xargs)" = \
		"65534 0000000000000000 0000000000000000" ] ||
		fail "the agent is still privileged: $(grep -E '^(Uid|Cap)' "$status")"
	ip netns exec "${namespaces[1]}" ping -q -c "$pings" -i 0.002 10.77.0.1 >"$work/ping.log"
	podman kill --signal TERM "$container" >/dev/null 2>&1 || true
	wait "$agent" || fail "the agent's exit status is $?; its log: $(<"$work/agent.log")"
	! attached || fail "a program is still on the interface"
}

# The agent must not start without any one of the capabilities that attaching needs. (The others
# are for becoming nobody.)
needs_each_capability() {
	local without others each
	for without in BPF NET_ADMIN PERFMON; do
		others=()
		for each in "${capabilities[@]}"; do
			[ "$each" = "$without" ] || others+=("$each")
		done
		[ ${#others[@]} -lt ${#capabilities[@]} ] || fail "$without is not in the compose file"
		! contained "${others[@]}" -- run --interface=seen --sink=stdout: --duration=0.1 \
			>"$work/refused.log" 2>&1 || fail "the agent starts without $without"
		grep -q "^flowstream: error: " "$work/refused.log" ||
			fail "not refused by the agent: $(<"$work/refused.log")"
	done
}

audit() {
	podman run --rm --network "ns:/run/netns/${namespaces[0]}" --cap-drop ALL --read-only \
		--security-opt no-new-privileges "$image" audit "$sink"
}

seconds() { # that a command takes
	local began=$EPOCHREALTIME
	"$@"
	awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }' >"$work/seconds"
}

podman image exists "$base" || make_base
seconds build
size() { podman image inspect --format '{{.Size}}' "$1" | awk '{ printf "%.0f MB", $1 / 1e6 }'; }
[ "$(podman image inspect --format '{{.Size}}' "$image")" -lt "$most_octets" ] ||
	fail "the image has $(size "$image")"
echo "image: ok    built in $(cat "$work/seconds"): $(size "$image") (base $(size "$base"))"
for absent in gcc clang pip pip3; do
	! podman run --rm --network none --entrypoint which "$image" "$absent" >/dev/null ||
		fail "$absent is in the image"
done
podman run --rm --network none "$image" run --help >"$work/help" || fail "flowstream run --help"
grep -q "^usage: flowstream run " "$work/help" || fail "flowstream run --help: $(<"$work/help")"
# Every format, and every compression that a broker may hold.
podman run --rm --network none --entrypoint python "$image" -c \
	"import cramjam, fastavro, google.protobuf" ||
	fail "a library of the extra readers is missing"
podman run --rm --network none --entrypoint cat "$image" /opt/flowstream/sbom.cdx.json >"$work/sbom"
for component in numpy libbpf1 python3.11; do
	jq -e --arg name "$component" 'any(.components[]; .name == $name)' "$work/sbom" >/dev/null ||
		fail "$component is not in the bill of materials"
done
echo "image: ok    bill of materials: $(jq '.components | length' "$work/sbom") components"
mkdir -p "$top/build/image"
cp "$work/sbom" "$top/build/image/sbom.cdx.json"
make_network
needs_each_capability
echo "image: ok    refuses to start without BPF, NET_ADMIN or PERFMON"
start_broker
seconds run_agent
received=$(ip netns exec "${namespaces[0]}" cat /sys/class/net/seen/statistics/rx_packets)
echo "image: ok    attached, became nobody, $received packets received, ended in $(cat "$work/seconds")"
audit >"$work/audit" || fail "the audit's exit status is $?: $(<"$work/audit")"
# The pings are one flow; other received packets (ARP) belong to none.
published=$(sed -n 's/,//g; s/^| *| in published flows *| *\([0-9]*\) |.*/\1/p' "$work/audit")
[ "$published" = "$pings" ] || fail "$published of $pings pings published: $(<"$work/audit")"
echo "image: ok    $(grep '^holds: ' "$work/audit"); $published pings in flows"
