"""Reads packets of links that not every kernel can make: tunnels, tun, VLANs and bonds.

    python3 links.py        (as root, where nothing else uses the network)

Each kind is made between this network namespace and another one, "far", which sends. What the
program reads must be what was sent, to the octet. It prints a line per check and exits with 1
when one failed.
"""

from __future__ import annotations

import socket
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from bonds import check_bond, check_bond_members
from check import FIELDS, Traffic, equal, ping, tcp6, total, udp
from wires import (
    FAR_ADDRESS,
    NEAR_ADDRESS,
    Wire,
    add_vlan,
    attach,
    facts,
    far_side,
    run_all,
    tun,
    tunnel,
    veth,
    wait_for,
)

from flowstream.kernel.attaching import attach_here
from flowstream.kernel.flow import FlowAttachment, FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

ARPHRD: Final = {"gre": 778, "ipip": 768, "sit": 776, "wireguard": 65534, "tun": 65534}


def without_ethernet(traffic: Traffic) -> Traffic:
    """Return the same packets as they are where no Ethernet header is before them."""
    assert traffic.flow
    return Traffic(traffic.frame[14:], traffic.copies, (*traffic.flow[:-1], traffic.flow[-2]))


IPV4 = tuple(map(without_ethernet, (udp(1, 2), udp(2, 3), udp(3, 31))))
IPV6 = (without_ethernet(tcp6(0x12, 13)), without_ethernet(tcp6(0x18, 7)))


def send(wire: Wire, traffic: Sequence[Traffic]) -> None:
    for each in traffic:
        for _ in range(each.copies):
            wire.send(each.frame)


Flow = tuple[bytes, bytes, tuple[int, ...]]
"""Source, destination, and the fields of a flow record that check.py names."""


def addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Source and destination of an IP packet, in 16 octets each."""
    if packet[0] >> 4 == 4:
        mapped = bytes(10) + b"\xff\xff"
        return mapped + packet[12:16], mapped + packet[16:20]
    return packet[8:24], packet[24:40]


def flows_of_packets(traffic: Sequence[Traffic]) -> Counter[Flow]:
    """Flow records of packets without an Ethernet header."""
    flows: dict[Flow, list[int]] = {}
    for each in traffic:
        assert each.flow
        flags, sums = each.flow[6], each.flow[8:]
        known = flows.setdefault((*addresses(each.frame), (*each.flow[:6], each.flow[7])), [0] * 4)
        known[:] = [known[0] | flags, *map(sum, zip(known[1:], sums, strict=True))]
    return Counter(
        (source, target, (*key[:6], its[0], key[6], *its[1:]))
        for (source, target, key), its in flows.items()
    )


def check_raw_ip(kind: str, wire: Wire, traffic: Sequence[Traffic]) -> str:
    """Packets of a link without an Ethernet header are read from their IP header on."""
    link = facts()[wire.name]
    equal("kind", link.kind, kind)
    equal("link type", link.link_type, ARPHRD[kind])
    with FlowProbe(max_flows=1009) as probe:
        attachment = attach(probe, wire.name)
        check_flows(probe, attachment, wire, traffic, flows_of_packets(traffic))
        mode = attachment.mode
        attachment.close()
    return f"{total(traffic)} packets, {mode}"


def check_flows(
    probe: FlowProbe,
    attachment: FlowAttachment,
    wire: Wire,
    traffic: Sequence[Traffic],
    flows: Counter[Flow],
) -> None:
    """Send packets, which must make these flow records, without MAC addresses."""
    send(wire, traffic)
    wait_for(attachment, total(traffic))
    records = [each for batch in probe.drain(EndReason.FORCED) for each in batch]
    found = Counter(
        (
            bytes(each["src_addr"]),
            bytes(each["dst_addr"]),
            tuple(int(each[name]) for name in FIELDS),
        )
        for each in records
    )
    equal("flows", found, flows)
    equal("MAC addresses", {bytes(each["src_mac"]) for each in records}, {bytes(6)})
    equal("if_index", {int(each["if_index"]) for each in records}, {attachment.index})
    octets = sum(fields[-1] for _, _, fields in flows)
    equal("octets", attachment.counters().seen.l2_bytes, octets)


def check_gre_of_several_ends() -> str:
    """Without a remote address a program sees the outer packet: the agent refuses the link."""
    with (
        tunnel("gre", near=("local", NEAR_ADDRESS)) as wire,
        FlowProbe(max_flows=1009) as probe,
    ):
        link = facts()[wire.name]
        equal("framing", link.reading.framing, None)
        target = Target(wire.name, link.index, link.index, raw=True)
        attachment = attach_here(probe, target)
        check_flows(probe, attachment, wire, IPV4, outer(IPV4))
        attachment.close()
    return f"refused: {link.reading.reason}"


def outer(traffic: Sequence[Traffic]) -> Counter[Flow]:
    """The one flow of packets that are in GRE between the tunnel's ends."""
    mapped = bytes(10) + b"\xff\xff"
    packets = total(traffic)
    # 20 octets of IPv4, 4 of GRE.
    octets = sum((len(each.frame) + 24) * each.copies for each in traffic)
    source, target = map(socket.inet_aton, (FAR_ADDRESS, NEAR_ADDRESS))
    fields = (0x0800, 47, 0, 0, 0, 0, 0, 0, packets, octets, octets)
    return Counter([(mapped + source, mapped + target, fields)])


def check_vlan() -> str:
    """The parent sees the tag, the VLAN's own link the frame without it."""
    untagged = (udp(1, 31), tcp6(0x12, 13))
    with veth("trunk", "sender") as wire:
        add_vlan("trunk", "vlan", 7)
        links = facts()
        equal("kind", links["vlan"].kind, "vlan")
        equal("lower", links["vlan"].lower, links["trunk"].index)
        with FlowProbe(max_flows=1009) as probe:
            trunk, vlan = attach(probe, "trunk"), attach(probe, "vlan")
            send(wire, (ping(7, 11), *untagged))
            wait_for(trunk, 11 + total(untagged))
            wait_for(vlan, 11)
            records = [each for batch in probe.drain(EndReason.FORCED) for each in batch]
            by_link = Counter(
                {
                    (int(each["if_index"]), int(each["vlan_id"]), int(each["proto"])): int(
                        each["l2_bytes"]
                    )
                    for each in records
                }
            )
            equal(
                "octets by link, tag and protocol",
                by_link,
                Counter(
                    {
                        (links["trunk"].index, 7, 1): 46 * 11,
                        (links["vlan"].index, 0, 1): 42 * 11,
                        (links["trunk"].index, 0, 17): 79 * 31,
                        (links["trunk"].index, 0, 6): 74 * 13,
                    }
                ),
            )
            modes = f"{trunk.mode} and {vlan.mode}"
            trunk.close()
            vlan.close()
    return modes


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    """Name each check, and the function that makes it."""

    def of(
        made: Callable[[], AbstractContextManager[Wire]], kind: str, traffic: Sequence[Traffic]
    ) -> Callable[[], str]:
        def check() -> str:
            with made() as wire:
                return check_raw_ip(kind, wire, traffic)

        return check

    yield "tun", of(tun, "tun", IPV4 + IPV6)
    yield "gre", of(lambda: tunnel("gre"), "gre", IPV4 + IPV6)
    yield "ipip", of(lambda: tunnel("ipip"), "ipip", IPV4)
    yield "sit", of(lambda: tunnel("sit", "mode", "any"), "sit", IPV4 + IPV6)
    yield "wireguard", of(lambda: tunnel("wireguard"), "wireguard", IPV4 + IPV6)
    yield "gre of several ends", check_gre_of_several_ends
    yield "vlan", check_vlan
    for mode in ("active-backup", "balance-rr"):
        yield f"members of a bond, {mode}", partial(check_bond_members, mode)
        for attach_mode in (Mode.NATIVE, Mode.GENERIC):
            yield f"bond, {mode}, {attach_mode}", partial(check_bond, mode, attach_mode)


def main() -> int:
    """Run every check; exit status 1 when one failed."""
    with far_side():
        return run_all(cases())


if __name__ == "__main__":
    sys.exit(main())
