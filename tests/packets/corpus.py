"""Named frames: each rule of docs/records.md from both sides, and what can lie or be cut.

``frames()`` maps a name to a frame; in every run they have the same order and octets.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

from packets.build import (
    EXTENSIONS,
    ah,
    chain,
    ether,
    extension,
    fragment6,
    icmp,
    ip4,
    ip6,
    long_chain,
    tag,
    tcp,
    udp,
    v4,
    v6,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Named = tuple[str, bytes]

MORE, DONT = 0x2000, 0x4000
SHORTEST_FRAME = 14


def _cut(name: str, frame: bytes, shortest: int = SHORTEST_FRAME) -> Iterator[Named]:
    for length in range(shortest, len(frame)):
        yield f"{name}-cut-{length}", frame[:length]


def _cuts() -> Iterator[Named]:
    qinq = ether(0x88A8, tag(0x123, 0x8100, tag(0x456, 0x0800, ip4(17, udp()))))
    yield from _cut("v4-tcp", v4(6, tcp(payload=b"abc")))
    yield from _cut("v4-options-udp", v4(17, udp(), options=b"\x94\x04\0\0" * 3))
    yield from _cut("v6-udp", v6(17, udp()))
    yield from _cut("v6-every-extension", chain([0, 43, 44, 51, 60, 135, 139, 140], 6, tcp()))
    yield from _cut("v6-tcp-behind-ah", chain([51], 6, tcp()))
    yield from _cut("qinq", qinq)
    yield from _cut("v4-icmp", v4(1, icmp(8, 0, b"")))
    yield from _cut("v6-icmpv6", v6(58, icmp(135, 0, b"")))
    yield from _cut("v4-sctp", v4(132, udp()))


def _links() -> Iterator[Named]:
    inner = ip4(17, udp())
    yield "ethernet-only-v4", ether(0x0800)
    yield "ethernet-only-v6", ether(0x86DD)
    yield "ethernet-only-arp", ether(0x0806)
    yield "arp", ether(0x0806, bytes.fromhex("0001080006040001") + bytes(20))
    yield "length-802.3", ether(0x0026, b"\x42\x42\x03" + bytes(35))
    yield "length-zero", ether(0x0000, ip4(17, udp()))
    yield "length-1500", ether(1500, bytes(1500))
    yield "etype-1501", ether(1501, bytes(60))
    yield "etype-1536", ether(1536, bytes(60))
    yield "lldp", ether(0x88CC, b"\x02\x07\x04" + bytes(40), dst=bytes.fromhex("0180c200000e"))
    yield "mpls", ether(0x8847, bytes.fromhex("0001013f") + inner)
    yield "mpls-multicast", ether(0x8848, bytes.fromhex("0001013f") + inner)
    yield "pppoe", ether(0x8864, bytes.fromhex("110000010023") + b"\0\x21" + inner)
    yield "provider-backbone", ether(0x88E7, bytes(4) + ether(0x0800, inner))
    yield "macsec", ether(0x88E5, bytes(14) + inner)
    yield "old-qinq-9100", ether(0x9100, tag(5, 0x0800, inner))
    yield "old-qinq-9200", ether(0x9200, tag(5, 0x0800, inner))
    yield "loopback-9000", ether(0x9000, bytes(46))
    yield "cisco-fabric-path", ether(0x8903, bytes(2) + ether(0x0800, inner))
    yield "all-ones", b"\xff" * 1514
    yield "all-zeros", bytes(1514)
    yield "all-ones-shortest", b"\xff" * 14
    yield "all-zeros-shortest", bytes(14)
    yield "all-ones-v4", ether(0x0800, b"\xff" * 1500)
    yield "all-zeros-v4", ether(0x0800, bytes(1500))
    yield "all-ones-v6", ether(0x86DD, b"\xff" * 1500)
    yield "all-zeros-v6", ether(0x86DD, bytes(1500))
    yield "all-ones-behind-4x", ether(0x0800, b"\x45" + b"\xff" * 1499)
    yield "all-zeros-behind-4x", ether(0x0800, b"\x45" + bytes(1499))
    yield "all-ones-behind-6x", ether(0x86DD, b"\x6f" + b"\xff" * 1499)
    yield "all-zeros-behind-6x", ether(0x86DD, b"\x60" + bytes(1499))
    yield "multicast", ether(0x0800, inner, dst=bytes.fromhex("01005e0000fb"))
    yield "broadcast", ether(0x0800, inner, dst=b"\xff" * 6)


def _tags() -> Iterator[Named]:
    inner = ip4(17, udp())
    for outer in (0x8100, 0x88A8):
        for vlan_id in (0, 1, 0x123, 4094, 4095):
            yield f"tag-{outer:x}-{vlan_id}", ether(outer, tag(vlan_id, 0x0800, inner))
        for middle in (0x8100, 0x88A8):
            packet = tag(0x111, middle, tag(0x222, 0x86DD, ip6(6, tcp())))
            yield f"tags-{outer:x}-{middle:x}", ether(outer, packet)
            for third in (0x8100, 0x88A8):
                packet = tag(1, middle, tag(2, third, tag(3, 0x0800, inner)))
                yield f"tags-{outer:x}-{middle:x}-{third:x}", ether(outer, packet)
        yield f"tag-{outer:x}-arp", ether(outer, tag(7, 0x0806, bytes(28)))
        yield f"tag-{outer:x}-length", ether(outer, tag(7, 0x0026, bytes(46)))
        yield f"tag-{outer:x}-nothing", ether(outer, tag(7, 0x0800))
        yield f"tag-{outer:x}-version-6", ether(outer, tag(7, 0x0800, ip6(6, tcp())))
    for prio in range(8):
        for dei in (0, 1):
            packet = tag(0x0F0, 0x0800, inner, prio=prio, dei=dei)
            yield f"tag-prio-{prio}-dei-{dei}", ether(0x8100, packet)
    yield "tag-priority-over-vlan", ether(0x8100, tag(0, 0x8100, tag(9, 0x0800, inner), prio=5))
    yield "tags-third-cut", ether(0x8100, tag(1, 0x8100, tag(2, 0x8100)))
    yield "tags-twenty", ether(0x8100, tag(1, 0x8100) * 19 + tag(2, 0x0800, inner))
    yield "tag-then-9100", ether(0x8100, tag(1, 0x9100, tag(2, 0x0800, inner)))


def _ipv4() -> Iterator[Named]:
    for version in range(16):
        yield f"v4-version-{version}", v4(17, udp(), version=version)
    for ihl in range(16):
        yield f"v4-ihl-{ihl}-whole", v4(17, udp(bytes(60)), ihl=ihl)
        yield f"v4-ihl-{ihl}-cut", v4(17, bytes(max(0, ihl * 4 - 21)), ihl=ihl)
        yield f"v4-ihl-{ihl}-bare", v4(17, b"\x11" * max(0, ihl * 4 - 20), ihl=ihl)
    for words in range(1, 11):
        yield f"v4-options-{words}", v4(6, tcp(), options=b"\x01\x01\x01\x00" * words)
    yield "v4-router-alert-igmp", v4(2, b"\x16\0\0\0\xe0\0\0\xfb", options=b"\x94\x04\0\0")
    yield "v4-options-that-lie", v4(6, tcp(), options=b"\x07\xff\xff\xff" * 2)
    for total in (0, 1, 19, 20, 21, 40, 1500, 0x7FFF, 0xFFFF):
        yield f"v4-total-{total}", v4(6, tcp(), total=total)
    yield "v4-padded", v4(6, tcp()) + bytes(6)
    yield "v4-padding-is-no-port", ether(0x0800, ip4(17, b"", total=20) + b"\xbb" * 26)
    for tos in (0, 1, 0x2E << 2, 0xFF):
        yield f"v4-tos-{tos}", v4(17, udp(), tos=tos)
    for ttl in (0, 1, 64, 255):
        yield f"v4-ttl-{ttl}", v4(17, udp(), ttl=ttl)
    yield "v4-zero-addresses", v4(17, udp(), src="0.0.0.0", dst="255.255.255.255")
    for proto in range(256):
        yield f"v4-proto-{proto}", v4(proto, tcp(payload=b"\x77" * 9))
    for proto in (1, 6, 17, 33, 58, 132, 136):
        for length in (0, 1, 2, 3, 4, 5, 13, 14):
            yield f"v4-proto-{proto}-{length}-octets", v4(proto, tcp()[:length])


def _ipv4_fragments() -> Iterator[Named]:
    for proto in (1, 6, 17, 58, 132, 33, 136, 50):
        for name, bits in {
            "dont": DONT,
            "first": MORE,
            "middle": MORE | 0x00B9,
            "last": 0x0172,
            "offset-1": 1,
            "offset-256": 0x100,
            "offset-largest": 0x1FFF,
            "reserved-bit": 0x8000,
            "every-bit": 0xFFFF,
            "first-with-every-flag": 0xE000,
        }.items():
            yield f"v4-fragment-{name}-{proto}", v4(proto, tcp(), fragment=bits)
    yield "v4-fragment-first-with-options", v4(6, tcp(), fragment=MORE, options=b"\1\1\1\0")
    yield "v4-fragment-last-with-options", v4(6, tcp(), fragment=3, options=b"\1\1\1\0")
    yield "v4-fragment-first-tiny", v4(6, tcp()[:8], fragment=MORE)
    yield "v4-fragment-last-empty", v4(6, b"", fragment=3)


def _ipv6() -> Iterator[Named]:
    for version in range(16):
        yield f"v6-version-{version}", v6(17, udp(), version=version)
    for length in (0, 1, 7, 8, 9, 1500, 0x7FFF, 0xFFFF):
        yield f"v6-length-{length}", v6(6, tcp(), length=length)
    for tclass in (0, 1, 0xB8, 0xFF):
        for label in (0, 0xFFFFF):
            fields = {"tclass": tclass, "flow_label": label}
            yield f"v6-class-{tclass}-label-{label}", v6(17, udp(), **fields)
    for hops in (0, 1, 255):
        yield f"v6-hops-{hops}", v6(58, icmp(128, 0), hops=hops)
    yield "v6-v4-mapped", v6(17, udp(), src="::ffff:10.0.0.1", dst="::ffff:198.18.0.1")
    yield "v6-v4-compatible", v6(17, udp(), src="::10.0.0.1", dst="::")
    yield "v6-nat64", v6(6, tcp(), src="64:ff9b::192.0.2.1", dst="ff02::1")
    yield "v6-all-ones-addresses", v6(6, tcp(), src="f" * 4 + ":ffff" * 7, dst="::1")
    for proto in range(256):
        yield f"v6-proto-{proto}", v6(proto, tcp(payload=b"\x77" * 9))
        yield f"v6-proto-{proto}-nothing", v6(proto)
        yield f"v6-proto-{proto}-behind-options", chain([60], proto, tcp(payload=b"\x77" * 9))
    for proto in (1, 6, 17, 33, 58, 132, 136):
        for length in (0, 1, 2, 3, 4, 5, 13, 14):
            yield f"v6-proto-{proto}-{length}-octets", v6(proto, tcp()[:length])
    yield "v6-jumbogram", v6(0, extension(6, tcp(), fill=0xC2), length=0)
    yield "v6-padded", v6(17, udp()) + bytes(7)


def _extensions() -> Iterator[Named]:
    for name, kind in EXTENSIONS.items():
        for count in (*range(1, 12), 20):
            yield f"v6-{name}-x{count}", chain([kind] * count, 6, tcp())
        for count in (7, 8, 9):
            yield f"v6-{count}-then-{name}", chain([60] * count + [kind], 17, udp())
        for units in (0, 1, 2, 31, 254, 255):
            lied = bytes([6, units]) + tcp()
            yield f"v6-{name}-units-{units}-cut", v6(kind, lied)
            whole = bytes([6, units, 0, 0]) + b"\x99" * 4 * 512 + tcp()
            yield f"v6-{name}-units-{units}", v6(kind, whole)
        yield f"v6-{name}-no-next-header", chain([kind], 59, tcp())
        yield f"v6-{name}-exactly-whole", chain([kind], 6, b"")
        yield f"v6-{name}-then-icmpv6", chain([kind], 58, icmp(1, 4))
        yield f"v6-{name}-then-icmp", chain([kind], 1, icmp(3, 1))
        yield f"v6-{name}-tagged", ether(0x8100, tag(77, 0x86DD, chain([kind], 6, tcp())[14:]))
    for units in range(8):
        yield f"v6-ah-{units}-words", v6(51, ah(17, udp(), units=units))
    yield "v6-experimental-253", v6(253, extension(6, tcp()))
    yield "v6-esp", v6(50, extension(6, tcp()))
    yield "v6-in-v6", v6(41, ip6(6, tcp()))
    yield "v6-eight-long", long_chain(8, 50)


def _ipv6_fragments() -> Iterator[Named]:
    shapes = {"atomic": (0, 0), "first": (0, 1), "middle": (185, 1), "last": (370, 0)}
    shapes |= {"offset-1": (1, 0), "offset-largest": (0x1FFF, 1), "offset-32": (32, 0)}
    for name, (offset, more) in shapes.items():
        for proto in (6, 17, 58, 1, 132, 50, 59, 60, 44, 51):
            packet = fragment6(proto, tcp(), offset=offset, more=more)
            yield f"v6-fragment-{name}-{proto}", v6(44, packet)
        packet = fragment6(60, extension(6, tcp()), offset=offset, more=more)
        yield f"v6-fragment-{name}-with-options-behind", v6(44, packet)
        yield f"v6-fragment-{name}-behind-options", v6(60, extension(44, packet))
        packet = fragment6(44, fragment6(6, tcp(), offset=3), offset=offset, more=more)
        yield f"v6-fragment-{name}-within-later", v6(44, packet)
        eighth = fragment6(6, tcp(), offset=offset, more=more)
        following = 44
        for _ in range(7):
            eighth, following = extension(following, eighth), 60
        yield f"v6-fragment-{name}-eighth", v6(following, eighth)
        yield f"v6-fragment-{name}-ninth", v6(60, extension(following, eighth))
    for bits in (2, 4, 6):
        reserved = bytes([6, 0, 0, bits]) + bytes(4) + tcp()
        yield f"v6-fragment-reserved-{bits}", v6(44, reserved)


def _messages() -> Iterator[Named]:
    for kind, code in ((0, 0), (3, 13), (8, 0), (11, 1), (133, 2), (255, 255)):
        yield f"v4-icmp-{kind}-{code}", v4(1, icmp(kind, code))
        yield f"v6-icmpv6-{kind}-{code}", v6(58, icmp(kind, code))
        yield f"v6-icmp-{kind}-{code}", v6(1, icmp(kind, code))
        yield f"v4-icmpv6-{kind}-{code}", v4(58, icmp(kind, code))
    for bit in range(8):
        yield f"v4-tcp-flag-{bit}", v4(6, tcp(1 << bit))
        yield f"v6-tcp-flag-{bit}", v6(6, tcp(1 << bit))
    yield "v4-tcp-no-flags", v4(6, tcp(0))
    yield "v4-tcp-every-flag", v4(6, tcp(0xFF))
    yield "v4-gre", v4(47, bytes.fromhex("00000800") + ip4(6, tcp()))
    yield "v4-in-v4", v4(4, ip4(6, tcp()))
    yield "v6-in-v4", v4(41, ip6(6, tcp()))
    yield "v4-vxlan", v4(17, udp(bytes(8) + v4(6, tcp())))
    yield "v4-ah", v4(51, ah(6, tcp()))
    yield "v4-zero-ports", v4(17, bytes(8))
    for size in (1500, 3000, 4096, 9000, 20011, 65521):
        yield f"v4-jumbo-{size}", v4(6, tcp(payload=bytes(size - 54)))
        yield f"v6-jumbo-{size}", v6(6, tcp(payload=bytes(size - 74)))


def _random() -> Iterator[Named]:
    chance = random.Random(20011)
    for number in range(101):
        yield f"random-{number}", chance.randbytes(chance.randrange(14, 200))
    heads = {"v4": b"\x45", "v6": b"\x60"}
    for number in range(101):
        for (name, head), etype in zip(heads.items(), (0x0800, 0x86DD), strict=True):
            body = head + chance.randbytes(chance.randrange(120))
            yield f"random-{name}-{number}", ether(etype, body)
    kinds = list(EXTENSIONS.values())
    for number in range(101):
        octets = chain(chance.choices(kinds, k=chance.randrange(1, 12)), 6, tcp())
        yield f"random-chain-{number}", octets[: chance.randrange(54, len(octets) + 1)]


@functools.cache
def frames() -> dict[str, bytes]:
    """Return every frame of the corpus (14 octets or more) by its name."""
    makers = (
        *(_links, _tags, _ipv4, _ipv4_fragments, _ipv6, _extensions, _ipv6_fragments),
        *(_messages, _cuts, _random),
    )
    made: dict[str, bytes] = {}
    for maker in makers:
        for name, frame in maker():
            if name in made:
                raise ValueError(f"two frames are called {name}")
            made[name] = frame
    return made


def beyond_first_buffer() -> dict[str, bytes]:
    """Return frames whose headers do not fit into one page, where XDP's first buffer ends."""
    return {
        "eight-headers-of-488-octets": long_chain(8, 60),
        "eight-headers-of-2048-octets": long_chain(8, 255),
    }
