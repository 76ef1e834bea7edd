"""How the packets of a link begin, by its facts."""

from __future__ import annotations

import pytest

from flowstream.host.link_types import Framing, Reading, reading
from flowstream.host.links import LinkFacts

LATEST = (6, 18)


def read(link_type: int, kind: str, *, point_to_point: bool = True, kernel=LATEST) -> Reading:
    return reading(link_type, kind, point_to_point=point_to_point, kernel=kernel)


@pytest.mark.parametrize("kind", ["", "veth", "bond", "vlan", "tun", "gretap", "netkit"])
def test_ethernet_whatever_the_kind(kind):
    assert read(1, kind, kernel=(5, 9)) == Reading(Framing.ETHERNET)
    assert read(772, kind) == Reading(Framing.ETHERNET)


@pytest.mark.parametrize(
    ("link_type", "kind", "since"),
    [
        *((65534, kind, (5, 9)) for kind in ("", "tun", "wireguard", "gre", "vxlan")),
        (65534, "bareudp", (5, 14)),
        (65534, "gtp", (5, 14)),
        (512, "ppp", (5, 9)),
        (519, "rmnet", (5, 9)),
        (768, "ipip", (5, 14)),
        (769, "ip6tnl", (5, 14)),
        (776, "sit", (5, 14)),
        (778, "gre", (5, 14)),
        (823, "ip6gre", (5, 14)),
    ],
)
def test_raw_ip_from_the_kernel_that_gives_it(link_type, kind, since):
    assert read(link_type, kind, kernel=since) == Reading(Framing.RAW_IP)
    assert read(link_type, kind) == Reading(Framing.RAW_IP)
    before = (since[0], since[1] - 1)
    if since > (5, 9):
        text = "its packets begin with the outer header before Linux 5.14"
        assert read(link_type, kind, kernel=before) == Reading(None, text)


def test_gre_to_any_or_several_others_keeps_the_outer_header():
    text = "packets of GRE that is not point-to-point begin with the outer header"
    assert read(778, "gre", point_to_point=False) == Reading(None, text)
    assert read(823, "ip6gre", point_to_point=False) == Reading(Framing.RAW_IP)


@pytest.mark.parametrize(("link_type", "kind"), [(768, "vti"), (769, "vti6"), (65534, "xfrm")])
def test_ipsec_links_are_refused(link_type, kind):
    framing, reason = read(link_type, kind)
    assert framing is None
    assert reason == (
        "its packets begin with what is left of the outer packet (IPsec): "
        "observe the interface that receives those"
    )


@pytest.mark.parametrize(
    ("link_type", "kind", "text"),
    [
        (32, "ipoib", "packets of link type 32 and kind ipoib cannot be read"),
        (280, "vcan", "packets of link type 280 and kind vcan cannot be read"),
        # 802.11 with radiotap, IEEE 802.15.4, a void type
        *((number, "", f"packets of link type {number} cannot be read") for number in (803, 804)),
        (65535, "", "packets of link type 65535 cannot be read"),
        # The driver may leave the MAC header anywhere.
        (65534, "ovpn", "packets of link type 65534 and kind ovpn cannot be read"),
        (519, "", "packets of link type 519 cannot be read"),
    ],
)
def test_others_are_refused(link_type, kind, text):
    assert read(link_type, kind) == Reading(None, text)


@pytest.mark.parametrize(
    ("link", "framing"),
    [
        (LinkFacts(7, "eth0"), Framing.ETHERNET),
        (LinkFacts(7, "gre1", kind="gre", link_type=778, point_to_point=True), Framing.RAW_IP),
        (LinkFacts(7, "gre1", kind="gre", link_type=778), None),
        (LinkFacts(7, "can0", link_type=280), None),
    ],
)
def test_a_link_is_read_by_its_facts(link, framing):
    assert link.reading.framing is framing
