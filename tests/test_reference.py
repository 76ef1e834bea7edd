"""The independent reading against records written by hand, and against tshark."""

from __future__ import annotations

import dataclasses
import ipaddress
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from packets import captures, corpus, reference
from packets.build import DST_PORT, SRC_PORT, TCP_FLAGS
from packets.compare import difference, differences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORTS = {"src_port": SRC_PORT, "dst_port": DST_PORT}
NO_PORTS = {"src_port": 0, "dst_port": 0, "tcp_flags": 0}

WRITTEN_BY_HAND = {
    "v4-tcp-cut-54": {"proto": 6, "tcp_flags": TCP_FLAGS, "bytes": 43, "l2_bytes": 54, **PORTS},
    "v4-tcp-cut-47": {"proto": 6, **PORTS, "tcp_flags": 0, "l2_bytes": 47},
    "v4-tcp-cut-48": {"proto": 6, **PORTS, "tcp_flags": TCP_FLAGS, "l2_bytes": 48},
    "v4-tcp-cut-37": {"proto": 6, **NO_PORTS},
    "v4-tcp-cut-33": "malformed",
    "v4-tcp-cut-14": "malformed",
    "v4-options-udp-cut-45": "malformed",
    "v4-options-udp-cut-46": {"proto": 17, **NO_PORTS},
    "v4-icmp-cut-35": {"proto": 1, "icmp_type": 0, "icmp_code": 0},
    "v4-icmp-cut-36": {"proto": 1, "icmp_type": 8, "icmp_code": 0},
    "v4-total-0": {"bytes": 40, "proto": 6, "tcp_flags": TCP_FLAGS},
    "v4-total-65535": {"bytes": 65535, "l2_bytes": 54},
    "v4-ihl-4-whole": "malformed",
    "v4-ihl-15-whole": {"proto": 17, "src_port": 0, "bytes": 88},
    "v4-ihl-15-cut": "malformed",
    "v4-fragment-first-6": {**PORTS, "tcp_flags": TCP_FLAGS},
    "v4-fragment-last-6": {"proto": 6, **NO_PORTS},
    "v4-fragment-offset-1-6": {"proto": 6, **NO_PORTS},
    "v4-fragment-reserved-bit-6": {**PORTS, "tcp_flags": TCP_FLAGS},
    "v4-tos-184": {"ip_tos": 184},
    "v4-padded": {"bytes": 40, "l2_bytes": 60},
    "v6-class-184-label-1048575": {"ip_tos": 184, "bytes": 53, "l2_bytes": 67, "etype": 0x86DD},
    "v6-v4-mapped": {"etype": 0x86DD, "src_addr": bytes(10) + b"\xff\xff\x0a\0\0\1"},
    "v4-ttl-255": {"etype": 0x0800, "src_addr": bytes(10) + b"\xff\xff\x0a\0\0\1", "ip_ttl": 255},
    "v6-length-65535": {"bytes": 65575},
    "v6-hop_by_hop-x8": {"proto": 6, **PORTS, "tcp_flags": TCP_FLAGS},
    "v6-hop_by_hop-x9": {"proto": 0, **NO_PORTS},
    "v6-8-then-fragment": {"proto": 44, **NO_PORTS},
    "v6-7-then-ah": {"proto": 17, **PORTS},
    "v6-ah-3-words": {"proto": 17, **PORTS},
    "v6-destination-units-255": {"proto": 6, "src_port": 0x9999},
    "v6-destination-units-255-cut": {"proto": 60, **NO_PORTS},
    "v6-ah-units-2": {"proto": 6, "src_port": 0x9999},
    "v6-tcp-behind-ah-cut-77": {"proto": 51, **NO_PORTS},
    "v6-tcp-behind-ah-cut-78": {"proto": 6, **NO_PORTS},
    "v6-tcp-behind-ah-cut-82": {"proto": 6, **PORTS},
    "v6-fragment-atomic-6": {"proto": 6, **PORTS, "tcp_flags": TCP_FLAGS},
    "v6-fragment-first-6": {"proto": 6, **PORTS, "tcp_flags": TCP_FLAGS},
    "v6-fragment-last-6": {"proto": 6, **NO_PORTS},
    "v6-fragment-last-with-options-behind": {"proto": 60, **NO_PORTS},
    "v6-fragment-first-with-options-behind": {"proto": 6, **PORTS},
    "v6-fragment-last-eighth": {"proto": 6, **NO_PORTS},
    "v6-fragment-last-ninth": {"proto": 44, **NO_PORTS},
    "v6-fragment-reserved-6": {"proto": 6, **PORTS},
    "tag-priority-over-vlan": {"vlan_id": 0, **PORTS},
    "tag-88a8-4095": {"vlan_id": 4095, **PORTS},
    "tag-prio-7-dei-1": {"vlan_id": 0x0F0},
    "tags-88a8-8100": {"vlan_id": 0x111, "etype": 0x86DD, "proto": 6},
    "tags-8100-8100-8100": "non_ip",
    "tags-third-cut": "non_ip",
    "qinq-cut-17": "malformed",
    "qinq-cut-21": "malformed",
    "qinq-cut-22": "malformed",
    "arp": "non_ip",
    "mpls": "non_ip",
    "all-ones": "non_ip",
    "all-zeros": "non_ip",
    "all-zeros-v4": "malformed",
    "all-ones-v6": "malformed",
    "ethernet-only-v6": "malformed",
}


def test_readings_are_what_the_specification_says() -> None:
    made = corpus.frames()

    def compare(name: str) -> str | None:
        found, expected = reference.read(made[name]), WRITTEN_BY_HAND[name]
        if isinstance(found, reference.Reading) and isinstance(expected, dict):
            return difference(found, dataclasses.replace(found, **expected))
        return None if found == expected else f"{found}, expected {expected}"

    assert differences(WRITTEN_BY_HAND, compare) == []


def test_packets_without_a_whole_ethernet_header_are_malformed() -> None:
    whole = corpus.frames()["tag-prio-0-dei-0"]
    found = {length: reference.read(whole[:length]) for length in range(14)}
    assert found == dict.fromkeys(range(14), "malformed")


def test_flow_sums_its_packets() -> None:
    made = corpus.frames()
    first, second = made["v4-total-1500"], made["v4-tcp-every-flag"]
    third = b"\6\6\6\6\6\6" + first[6:15] + b"\0" + first[16:22] + b"\7" + first[23:]
    table, refused = reference.flows([first, made["arp"], second, third, made["arp"]])
    (flow,) = table.values()
    assert (flow.packets, flow.bytes, flow.l2_bytes) == (3, 3040, 162)
    assert (flow.tcp_flags, flow.ip_ttl, flow.ip_tos) == (0xFF, 7, 0xB9)
    assert flow.dst_mac == first[:6]
    assert refused == {"non_ip": 2}


def test_directions_are_flows_of_their_own() -> None:
    frame = corpus.frames()["v4-tcp-no-flags"]
    back = frame[:26] + frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36] + frame[38:]
    assert len(reference.flows([frame, back])[0]) == 2


def _as_listed() -> list[tuple[str, int, int]]:
    """Return name, packets and flows of each capture in the README."""
    lines = (captures.TRACES / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(row[0], int(row[1]), int(row[2])) for row in rows if row[0].endswith(".pcap")]


def test_every_capture_is_listed() -> None:
    assert [path.name for path in captures.CAPTURES] == sorted(name for name, _, _ in _as_listed())


@pytest.mark.parametrize(("name", "packets", "flows"), _as_listed())
def test_capture_has_the_packets_and_flows_listed(name: str, packets: int, flows: int) -> None:
    frames = captures.frames(captures.TRACES / name)
    assert (len(frames), len(reference.flows(frames)[0])) == (packets, flows)


TSHARK_FIELDS = (
    *("eth.type", "frame.len", "vlan.id", "ip.len", "ipv6.plen", "ip.proto", "ipv6.nxt"),
    *("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.flags"),
    *("tcp.srcport", "udp.srcport", "sctp.srcport", "tcp.dstport", "udp.dstport", "sctp.dstport"),
)
WITH_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}

# Not here: tunnels (tshark enters them), extension headers (it gives no walked
# protocol) and broken packets (it stops where it likes).
PLAIN = (
    *("5-pings", "bro.org-filtered", "content-length-overflow"),
    *("dns-edns-ecs", "fake-long-commands", "get-without-fins", "home-multicast-short"),
    *("http_09", "icmp_dot1q", "mapi", "proxy", "sctp", "simpleauth-diff-port", "sshfp-trunc"),
)


def _as_tshark_reads(capture: Path) -> Iterator[tuple[tuple[object, ...], Counter[str]]]:
    """Yield for each IP packet its flow and its counts."""
    fields = [argument for field in TSHARK_FIELDS for argument in ("-e", field)]
    options = ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    argv = ["tshark", "-n", "-r", str(capture), *options, "-T", "fields", "-E", "occurrence=f"]
    lines = subprocess.run([*argv, *fields], capture_output=True, check=True, text=True).stdout
    for line in lines.splitlines():
        row = dict(zip(TSHARK_FIELDS, line.split("\t"), strict=True))
        if row["eth.type"] not in {"0x0800", "0x86dd", "0x8100"}:
            continue
        if not (source := row["ip.src"] or row["ipv6.src"]):
            continue
        proto = int(row["ip.proto"] or row["ipv6.nxt"])
        layer = WITH_PORTS.get(proto, "")
        flow = (
            *(int(row["vlan.id"] or 0), source, row["ip.dst"] or row["ipv6.dst"], proto),
            *(int(row.get(f"{layer}.{end}port") or 0) for end in ("src", "dst")),
        )
        octets = int(row["ip.len"]) if row["ip.len"] else 40 + int(row["ipv6.plen"])
        yield flow, Counter(packets=1, bytes=octets, l2_bytes=int(row["frame.len"]))


def _text(address: bytes) -> str:
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_capture_reads_as_in_tshark(name: str) -> None:
    capture = captures.TRACES / f"{name}.pcap"
    theirs: dict[tuple[object, ...], Counter[str]] = {}
    for flow, counts in _as_tshark_reads(capture):
        theirs.setdefault(flow, Counter()).update(counts)

    ours: dict[tuple[object, ...], Counter[str]] = {}
    for key, said in reference.flows(captures.frames(capture))[0].items():
        ends = (_text(key.src_addr), _text(key.dst_addr), key.proto, key.src_port, key.dst_port)
        counts = Counter(packets=said.packets, bytes=said.bytes, l2_bytes=said.l2_bytes)
        ours.setdefault((key.vlan_id, *ends), Counter()).update(counts)

    assert ours == theirs
