"""Chosen interfaces that see a packet more than once, by their facts alone."""

from __future__ import annotations

import pytest

from flowstream.host.links import LinkFacts
from flowstream.host.overlaps import Seen, overlaps

ETH0 = LinkFacts(2, "eth0", parent_device="0000:01:00.0")
ETH1 = LinkFacts(3, "eth1", parent_device="0000:01:00.1")


def found(*links: LinkFacts, both: bool = False) -> list[tuple[str, str, str]]:
    """Interface, others and text of each overlap in one namespace."""
    return [
        (each.interface.name, " ".join(other.name for other in each.others), each.text)
        for each in overlaps([Seen(0, "", link) for link in links], {}, both=both)
    ]


def member(link: LinkFacts, of: int) -> LinkFacts:
    return LinkFacts(link.index, link.name, parent_device=link.parent_device, master=of)


def test_interfaces_that_have_nothing_to_do_with_each_other():
    assert found(ETH0, ETH1, LinkFacts(1, "lo", link_type=772)) == []


@pytest.mark.parametrize("kind", ["bond", "team", ""])
def test_a_bond_and_its_members(kind):
    """Hyper-V's synthetic NIC, of no kind, is the master of the virtual function likewise."""
    bond = LinkFacts(9, "bond0", kind=kind)
    text = "all its packets are seen on eth0, eth1 too"
    assert found(member(ETH0, 9), bond, member(ETH1, 9)) == [("bond0", "eth0 eth1", text)]
    assert found(member(ETH0, 9), bond, ETH1)[0][1] == "eth0"
    # The bond, or its members: no packet twice.
    assert found(bond, ETH1) == found(member(ETH0, 9), member(ETH1, 9)) == []


def test_a_bridge_and_its_ports():
    bridge = LinkFacts(9, "br0", kind="bridge")
    ports = [LinkFacts(20 + each, f"veth{each}", kind="veth", master=9) for each in range(6)]
    text = "packets to br0 itself are seen on veth0, veth1, veth2, veth3 and 2 more too"
    assert found(bridge, *ports) == [("br0", "veth0 veth1 veth2 veth3 veth4 veth5", text)]
    assert found(*ports) == []


def test_a_vrf_receives_nothing_anew():
    assert found(LinkFacts(9, "vrf0", kind="vrf"), member(ETH0, 9)) == []


@pytest.mark.parametrize("kind", ["vlan", "macvlan", "macvtap", "ipvlan"])
def test_a_link_above_another(kind):
    upper = LinkFacts(9, "upper", kind=kind, lower=2)
    text = "all its packets are seen on eth0 too"
    assert found(upper, ETH0, ETH1) == [("upper", "eth0", text)]
    assert found(upper, ETH1) == []
    # A VLAN of the VLAN.
    above = LinkFacts(10, "above", kind=kind, lower=9)
    assert [each[:2] for each in found(ETH0, upper, above)] == [
        *(("upper", "eth0"), ("above", "upper"))
    ]


@pytest.mark.parametrize("kind", ["vxlan", "gre", "ipip", "wireguard", "xfrm", "ppp"])
def test_a_tunnel_and_what_carries_it(kind):
    def text(others: str) -> str:
        return (
            f"its packets are seen on {others} too, in the tunnel's packets: other headers, the "
            "same payload"
        )

    bound = LinkFacts(9, "tunnel0", kind=kind, lower=3)
    assert found(bound, ETH0, ETH1) == [("tunnel0", "eth1", text("eth1"))]
    assert found(bound, ETH0) == []
    # The route decides.
    free = LinkFacts(9, "tunnel0", kind=kind)
    veth = LinkFacts(10, "veth0", kind="veth")
    assert found(free, ETH0, ETH1, veth) == [("tunnel0", "eth0 eth1", text("eth0, eth1"))]
    assert found(free, veth) == []


def test_a_tun_may_be_a_vpn_and_a_tap_is_a_guest():
    tun = LinkFacts(9, "tun0", kind="tun", link_type=65534)
    tap = LinkFacts(10, "tap0", kind="tun")
    assert [each[:2] for each in found(tun, tap, ETH0)] == [("tun0", "eth0")]


OTHER_END = (
    "is the other end of {}: packets that the host forwards through the pair are seen at one end, "
    "and again where they come in or leave"
)


def test_both_ends_of_a_veth():
    ends = [
        LinkFacts(20, "veth0", kind="veth", lower=21),
        LinkFacts(21, "p", kind="veth", lower=20),
    ]
    assert found(*ends, ETH0) == [("veth0", "p", OTHER_END.format("p"))]
    assert found(ends[0], ETH0) == []
    text = "is the other end of p: each receives what the other sends, so every packet is seen at "
    assert found(*ends, ETH0, both=True) == [("veth0", "p", f"{text}both ends")]
    assert found(ends[0], ETH0, both=True) == []


def test_a_loopback_receives_what_it_sends():
    loopback = LinkFacts(1, "lo", link_type=772)
    assert found(loopback, ETH0) == []
    (only,) = overlaps([Seen(0, "", loopback), Seen(0, "", ETH0)], {}, both=True)
    assert (only.interface.name, only.others) == ("lo", ())
    assert only.text == "receives what it sends: both directions see each packet"
    assert only.remedy == "leave it out, for example by -i '!lo', or observe one direction"


def test_what_a_host_forwards_is_no_overlap_in_both_directions():
    """Its records differ in the direction. Links above others see packets twice in each."""
    assert found(ETH0, ETH1, both=True) == []
    vlan = LinkFacts(9, "upper", kind="vlan", lower=2)
    assert found(vlan, ETH0, both=True) == found(vlan, ETH0)


def test_links_of_other_namespaces():
    """The numbers that namespaces have for each other tell which link is meant."""
    host = [
        Seen(0, "", LinkFacts(2, "eth0", parent_device="x")),
        Seen(0, "", LinkFacts(20, "veth0", kind="veth", lower=2, lower_netnsid=0)),
        Seen(0, "", LinkFacts(21, "veth1", kind="veth", lower=2, lower_netnsid=1)),
    ]
    blue = Seen(1, "blue", LinkFacts(2, "eth0", kind="veth", lower=20, lower_netnsid=5))
    red = Seen(2, "pid:7", LinkFacts(2, "eth0", kind="macvlan", lower=2, lower_netnsid=6))
    places = {(0, 0): 1, (1, 5): 0, (2, 6): 0}
    assert [
        (each.interface.name, [other.name for other in each.others], each.text)
        for each in overlaps([*host, blue, red], places)
    ] == [
        ("veth0", ["eth0 in blue"], OTHER_END.format("eth0 in blue")),
        ("eth0 in pid:7", ["eth0"], "all its packets are seen on eth0 too"),
    ]
    # The peer of veth1 is in a namespace that is not observed.
    assert overlaps([host[2], blue, red], {}) == []
