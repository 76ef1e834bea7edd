"""Which interfaces are chosen, by their facts alone."""

from __future__ import annotations

import pytest

from flowstream.errors import FlowstreamError, KernelError, UsageError
from flowstream.host.links import LinkFacts
from flowstream.host.selection import Selection

HOST = [
    LinkFacts(1, "lo", link_type=772),
    LinkFacts(2, "eth0", parent_device="0000:01:00.0", altnames=("enp1s0", "uplink")),
    LinkFacts(3, "eth1", parent_device="0000:01:00.1", master=5),
    LinkFacts(4, "Eth2", parent_device="usb1"),
    LinkFacts(5, "bond0", kind="bond"),
    LinkFacts(6, "veth7", kind="veth"),
    LinkFacts(7, "veth70", kind="veth"),
    LinkFacts(8, "docker0", kind="bridge"),
    LinkFacts(9, "!odd", kind="tun"),
    LinkFacts(10, "a*b", kind="tun"),
    LinkFacts(11, "a]b", kind="tun"),
    # Octets that are not UTF-8, as os.fsdecode shows them.
    LinkFacts(12, "\udcff\udcfe", kind="tun"),
]


def chosen(*patterns: str, kinds: tuple[str, ...] = ()) -> str:
    selection = Selection(patterns, kinds)
    return " ".join(link.name for link in HOST if selection.chooses(link))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("", "eth0 eth1 Eth2"),
        ("eth1", "eth1"),
        ("eth1 docker0", "eth1 docker0"),
        ("eth*", "eth0 eth1"),
        ("[eE]th*", "eth0 eth1 Eth2"),
        ("[!e]th?", "Eth2"),
        ("veth?", "veth7"),
        ("*[0-6]", "eth0 eth1 Eth2 bond0 veth70 docker0"),
        ("eth", ""),
        # Altnames, whole and by globs.
        ("uplink", "eth0"),
        ("enp*", "eth0"),
        ("eth* !uplink", "eth1"),
        # Excluding ones, in any order.
        ("eth* !eth1", "eth0"),
        ("!eth1 eth*", "eth0"),
        ("* !veth* !lo", "eth0 eth1 Eth2 bond0 docker0 !odd a*b a]b \udcff\udcfe"),
        # Of excluding ones alone: what else is chosen by default.
        ("!eth0", "eth1 Eth2"),
        ("!*", ""),
        # Characters that mean something else.
        ("[!]odd", "!odd"),
        ("[!]*", "!odd"),
        ("![!]odd * !*[a-zA-Z0-9]", "\udcff\udcfe"),
        ("*d* ![!]odd", "bond0 docker0"),
        ("?odd", "!odd"),
        ("a[*]b", "a*b"),
        ("a[]]b", "a]b"),
        ("a[!]]b", "a*b"),
        ("??", "lo \udcff\udcfe"),
    ],
)
def test_patterns(patterns, names):
    assert chosen(*patterns.split()) == names


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ("physical", "eth0 eth1 Eth2"),
        ("virtual", "lo bond0 veth7 veth70 docker0 !odd a*b a]b \udcff\udcfe"),
        ("all", " ".join(link.name for link in HOST)),
        ("veth", "veth7 veth70"),
        ("bond physical", "eth0 eth1 Eth2 bond0"),
        ("wireguard", ""),
    ],
)
def test_kinds(kinds, names):
    assert chosen(kinds=tuple(kinds.split())) == names


def test_patterns_and_kinds_must_both_hold():
    assert chosen("*0", kinds=("veth", "bridge")) == "veth70 docker0"
    assert chosen("*0", "!docker*", kinds=("veth", "bridge")) == "veth70"
    assert chosen("eth0", kinds=("veth",)) == ""
    assert chosen("!veth7", kinds=("veth",)) == "veth70"


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("eth0 uplink", ("eth0", "uplink")),
        ("eth* eth? eth[0] !eth1", ()),
        ("[!]odd a]b !c", ("!odd", "a]b")),
    ],
)
def test_exact_names(patterns, names):
    assert Selection(patterns.split()).exact_names == names


@pytest.mark.parametrize("excluding", ["!eth0", "!eth*", "!*"])
def test_a_name_that_is_excluded(excluding):
    with pytest.raises(UsageError) as caught:
        Selection(["eth*", "eth0", excluding])
    assert str(caught.value) == f"interface: eth0 is excluded by {excluding}"


@pytest.mark.parametrize(
    ("patterns", "kinds", "name", "objection"),
    [
        ("eth0", "", "eth0", ""),
        ("eth0", "", "eth1", "matches no pattern"),
        ("eth* !uplink", "", "eth0", "excluded by !uplink"),
        ("eth* !enp* !uplink", "", "eth0", "excluded by !enp*"),
        ("", "", "veth7", "veth, not physical"),
        ("", "", "lo", "virtual, not physical"),
        ("", "veth bond", "eth0", "physical, not veth or bond"),
        ("*0", "virtual", "eth0", "physical, not virtual"),
    ],
)
def test_why_an_interface_is_not_chosen(patterns, kinds, name, objection):
    (link,) = [each for each in HOST if each.name == name]
    assert Selection(patterns.split(), kinds.split()).objection(link) == objection


def complaint(kind: type[FlowstreamError], patterns: str, kinds: str = "", **there: str) -> str:
    links = {
        label: [each for each in HOST if each.name in names] for label, names in there.items()
    }
    with pytest.raises(kind) as caught:
        Selection(patterns.split(), kinds.split()).require_named(links)
    return str(caught.value)


def test_exact_names_must_be_there():
    everything = {"": HOST}
    for patterns in ("eth0 docker0", "uplink", "none* !eth0", ""):
        Selection(patterns.split()).require_named(everything)
    Selection(["bond0"], ["bond"]).require_named(everything)
    told = complaint(KernelError, "eth0 eth9", a="eth1 eth0 lo")
    assert told == "no interface 'eth9'; there are: eth0, eth1, lo"
    told = complaint(UsageError, "eth0 uplink", a="eth0")
    assert told == "interface: uplink is the same interface as eth0"
    assert complaint(UsageError, "uplink !eth*", a="eth0") == (
        "interface: uplink is excluded by !eth*"
    )
    assert complaint(UsageError, "eth0", "veth tun", a="eth0") == (
        "interface: eth0 is physical, not veth or tun"
    )


def test_exact_names_must_be_there_in_one_of_several_namespaces():
    blue, red = HOST[:2], HOST[4:5]
    Selection(["lo", "bond0", "eth0"]).require_named({"blue": blue, "red": red})
    assert complaint(KernelError, "eth1", blue="lo eth0", red="bond0") == (
        "no interface 'eth1'; there are: eth0, lo (blue); bond0 (red)"
    )
    # A kind that one of two interfaces of the name has.
    links = {"blue": [LinkFacts(2, "a", kind="veth")], "red": [LinkFacts(2, "a")]}
    Selection(["a"], ["veth"]).require_named(links)


def test_which_exact_names_an_interface_has():
    selection = Selection(["eth0", "uplink", "enp*"])
    assert [selection.named(link) for link in HOST[:2]] == [[], ["eth0", "uplink"]]
