"""Links of network namespaces, as the kernel reports them and their changes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.net import Namespace as Place
from support.net import namespace

from flowstream.host import netlink, rtnetlink
from flowstream.host.link_types import Framing
from flowstream.host.links import Departure, LinkFacts, LinkMonitor, facts_of
from flowstream.host.namespaces import Namespace
from flowstream.host.netlink import DamagedMessageError
from flowstream.host.rtnetlink import Attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60
MESSAGES = 20_000
"""More than the queue holds."""
ETHERNET, LOOPBACK, NONE = 1, 772, 65534
NOT_UTF8 = b"\xff\xfe\xe4"
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000


@pytest.fixture
def place() -> Iterator[Place]:
    with namespace() as made:
        yield made


@contextlib.contextmanager
def monitor(place: Place) -> Iterator[LinkMonitor]:
    with Namespace.open(place.name) as opened:
        made = LinkMonitor(opened)
    with made:
        yield made


def links(place: Place) -> dict[str, LinkFacts]:
    with monitor(place) as made:
        return {link.name: link for link in made.links().values()}


def test_numbers_of_other_namespaces(place):
    """They are those by which links refer to them; without privileges, too."""
    with (
        namespace() as far,
        monitor(place) as followed,
        monitor(far) as back,
        Namespace.open(far.name) as opened,
    ):
        assert followed.netnsid(opened) is None
        peer = ("peer", "name", "there", "netns", far.name)
        place.run("ip", "link", "add", "here", "type", "veth", *peer)
        read(followed)
        (here,) = (link for link in followed.links().values() if link.name == "here")
        assert followed.netnsid(opened) == here.lower_netnsid == 0
        # It has one from the first time that it is needed.
        assert links(far)["there"].lower_netnsid == 0
        with Namespace.open(place.name) as returning:
            assert back.netnsid(returning) == 0
        # The process's own one.
        assert followed.netnsid(Namespace("")) is None


def read(followed: LinkMonitor) -> list[Departure]:
    """Read what the kernel has sent, which is there before a command of ip has ended."""
    assert select.select([followed.fd], [], [], DEADLINE_S)[0]
    departures = followed.read()
    assert not select.select([followed.fd], [], [], 0)[0]
    return departures


def without_incarnations(followed: LinkMonitor) -> dict[int, LinkFacts]:
    return {index: replace(link, incarnation=0) for index, link in followed.links().items()}


def batch(place: Place, *lines: str) -> None:
    command = ["ip", "-n", place.name, "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True)


@contextlib.contextmanager
def tun(place: Place, name: str, flags: int) -> Iterator[None]:
    """Create a tun or tap device, which ends with the block."""
    with place.entered(), open("/dev/net/tun", "r+b", buffering=0) as device:  # noqa: PTH123
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | IFF_NO_PI))
        yield


def test_facts_of_every_kind_of_link(place):
    add = ("link", "add")
    with namespace() as far:
        batch(
            place,
            "link add bridge0 type bridge",
            f"link add veth0 type veth peer name peer0 netns {far.name}",
            "link set veth0 master bridge0",
            "link add veth1 type veth peer name veth2",
            "link add link veth1 name macvlan0 type macvlan mode bridge",
            "link add vxlan0 type vxlan id 7 dev veth2 dstport 4789",
            "link add ifb0 mtu 1400 type ifb",
            "link set veth1 up",
        )
        far.run("ip", *add, "link", "peer0", "name", "moved0", "type", "macvlan")
        far.run("ip", "link", "set", "moved0", "netns", place.name)
        with tun(place, "tun0", IFF_TUN), tun(place, "tap0", IFF_TAP):
            found = links(place)
            told = json.loads(place.run("ip", "-j", "-d", "link"))
        peers = links(far)
    assert {name: link.kind for name, link in found.items()} == {
        **dict.fromkeys(("veth0", "veth1", "veth2"), "veth"),
        **dict.fromkeys(("macvlan0", "moved0"), "macvlan"),
        **dict.fromkeys(("tun0", "tap0"), "tun"),
        "lo": "",
        "bridge0": "bridge",
        "vxlan0": "vxlan",
        "ifb0": "ifb",
    }
    types = {name: link.link_type for name, link in found.items()}
    assert types == dict.fromkeys(found, ETHERNET) | {"lo": LOOPBACK, "tun0": NONE}
    assert {name: link.reading.framing for name, link in found.items()} == dict.fromkeys(
        found, Framing.ETHERNET
    ) | {"tun0": Framing.RAW_IP}
    assert [name for name, link in found.items() if link.point_to_point] == ["tun0"]
    assert [name for name, link in found.items() if link.up] == ["lo", "veth1"]
    assert [name for name, link in found.items() if link.master] == ["veth0"]
    assert found["veth0"].master == found["bridge0"].index
    assert (found["ifb0"].mtu, found["veth0"].mtu) == (1400, 1500)
    index = {name: link.index for name, link in found.items()}
    lower = {name: link.lower for name, link in found.items() if link.lower_netnsid is None}
    below = {"veth1": "veth2", "veth2": "veth1", "macvlan0": "veth1", "vxlan0": "veth2"}
    assert {name: link for name, link in lower.items() if link} == {
        name: index[other] for name, other in below.items()
    }
    assert found["veth0"].lower == found["moved0"].lower == peers["peer0"].index
    assert found["veth0"].lower_netnsid == found["moved0"].lower_netnsid == 0
    assert (peers["peer0"].lower, peers["peer0"].lower_netnsid) == (index["veth0"], 0)
    assert {(each["ifname"], each["ifindex"], each["mtu"]) for each in told} == {
        (link.name, link.index, link.mtu) for link in found.values()
    }
    assert not any(link.physical for link in found.values())


def test_the_hosts_hardware_is_physical():
    """A device with a parent, which sysfs shows for the namespace in which it was mounted."""
    hardware = {path.parent.name for path in Path("/sys/class/net").glob("*/device")}
    # A worker of the tests has a namespace of its own, unlike the process that started it.
    with Namespace.open(f"pid:{os.getppid()}") as hosts, LinkMonitor(hosts) as links:
        found = {link.name for link in links.links().values() if link.physical}
    assert found == hardware


@pytest.mark.parametrize(
    ("changes", "physical"),
    [
        ({"parent_device": "0000:01:00.0"}, True),
        # ipoib and wwan are kinds, and devices.
        ({"parent_device": "0000:01:00.0", "kind": "ipoib"}, True),
        # A driver outside the kernel without a kind, such as vboxnet0.
        ({"parent_device": ""}, False),
        ({"parent_device": None}, True),
        ({"parent_device": None, "kind": "veth"}, False),
        ({"parent_device": None, "link_type": LOOPBACK}, False),
    ],
)
def test_physical_links(changes, physical):
    """Before Linux 5.14 (None) by the kind."""
    assert LinkFacts(7, "x0", **changes).physical is physical


def test_names_are_any_octets(place):
    longest = "a" * 15
    alternatives = ["another", "b" * 127, os.fsdecode(NOT_UTF8 + b"1")]
    batch(place, f"link add {longest} type ifb")
    place.run("ip", "link", "add", os.fsdecode(NOT_UTF8), "type", "ifb")
    for name in alternatives:
        place.run("ip", "link", "property", "add", "dev", longest, "altname", name)
    found = links(place)
    assert set(found) == {"lo", longest, os.fsdecode(NOT_UTF8)}
    assert found[longest].altnames == tuple(alternatives)
    with place.entered():
        assert socket.if_nametoindex(os.fsdecode(NOT_UTF8)) == found[os.fsdecode(NOT_UTF8)].index


def test_a_link_is_followed_from_its_creation_to_its_end(place):
    with monitor(place) as followed:
        assert [link.name for link in followed.links().values()] == ["lo"]
        batch(place, "link add first index 77 type ifb")
        assert read(followed) == []
        first = followed.links()[77]
        assert (first.name, first.up, first.mtu) == ("first", False, 1500)
        batch(
            place,
            *("link set first up", "link set first mtu 9000"),
            *("link property add dev first altname third", "link set first down"),
            "link set first name second",
        )
        assert read(followed) == []
        second = replace(first, name="second", altnames=("third",), mtu=9000)
        assert followed.links()[77] == second
        batch(place, "link delete second")
        assert read(followed) == [Departure(second, moved=False)]
        assert 77 not in followed.links()
        batch(place, "link add second index 77 type ifb")
        assert read(followed) == []
        assert followed.links()[77] == replace(first, name="second", incarnation=3)
        # Re-created between two looks.
        batch(place, "link delete second", "link add fourth index 77 type ifb")
        assert [gone.link.name for gone in read(followed)] == ["second"]
        assert (followed.links()[77].name, followed.links()[77].incarnation) == ("fourth", 4)


def test_a_link_that_moves_to_another_namespace(place):
    with namespace() as other, monitor(place) as here, monitor(other) as there:
        batch(place, "link add mover index 78 type ifb")
        read(here)
        link = here.links()[78]
        place.run("ip", "link", "set", "mover", "netns", other.name)
        assert read(here) == [Departure(link, moved=True)]
        assert read(there) == []
        assert there.links()[78] == replace(link, incarnation=2)
        other.run("ip", "link", "delete", "mover")
        assert [gone.moved for gone in read(there)] == [False]


def test_a_bridge_that_loses_a_port_loses_no_link(place):
    batch(
        place,
        *("link add bridge0 type bridge", "link add port0 type ifb"),
        *("link set bridge0 up", "link set port0 up"),
    )
    with monitor(place) as followed:
        before = without_incarnations(followed)
        batch(place, "link set port0 master bridge0")
        assert read(followed) == []
        index = {link.name: link.index for link in before.values()}
        assert followed.links()[index["port0"]].master == index["bridge0"]
        batch(place, "link set port0 nomaster")
        assert read(followed) == []
        assert without_incarnations(followed) == before


def test_a_thousand_links(place):
    batch(place, *(f"link add a{each} type veth peer name b{each}" for each in range(500)))
    found = links(place)
    names = {f"{end}{each}" for end in "ab" for each in range(500)}
    assert found.keys() == names | {"lo"}
    assert all(
        found[f"a{each}"].lower == found[f"b{each}"].index != found[f"b{each}"].lower
        for each in range(500)
    )


def drops(place: Place) -> int:
    """Messages that did not fit into the queues of the namespace's rtnetlink sockets."""
    lines = place.run("cat", "/proc/self/net/netlink").splitlines()
    names = lines[0].split()
    rows = [dict(zip(names, line.split(), strict=True)) for line in lines[1:]]
    return sum(int(row["Drops"]) for row in rows if row["Eth"] == "0")


def test_lost_messages_do_not_leave_a_wrong_table(place):
    batch(place, "link add gone index 9001 type ifb", "link add other index 9002 type ifb")
    with monitor(place) as followed:
        gone, other = followed.links()[9001], followed.links()[9002]
        batch(
            place,
            *(f"link set other mtu {1000 + each % 500}" for each in range(MESSAGES)),
            *("link delete gone", "link delete other", "link add other index 9002 type veth"),
            *("link add new type veth peer name newer", "link set new up"),
        )
        assert drops(place) > 0
        departures = followed.read()
        assert not select.select([followed.fd], [], [], 0)[0]
        assert {(each.link.index, each.link.incarnation) for each in departures} == {
            (each.index, each.incarnation) for each in (gone, other)
        }
        with monitor(place) as fresh:
            assert without_incarnations(followed) == without_incarnations(fresh)
        assert followed.links()[9002].incarnation > other.incarnation


def test_links_that_come_and_go_while_they_are_listed(place):
    """Whatever an answer lacks, or has too much, is read afterwards."""
    batch(place, *(f"link add s{each} type ifb" for each in range(100)))
    turns = [
        line
        for each in range(60)
        for line in (
            f"link add a{each % 7} index {5000 + each % 7} type veth peer name b{each % 7}",
            f"link set b{each % 7} name c{each}",
            f"link set c{each} up",
            f"link delete c{each}",
        )
    ]
    command = ["ip", "-n", place.name, "-batch", "-"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as changing,
        contextlib.ExitStack() as stack,
    ):
        changing.stdin.write("\n".join(turns[:-1]))
        changing.stdin.close()
        followed = [stack.enter_context(monitor(place)) for _ in range(3)]
        while changing.poll() is None:
            for each in followed:
                each.read()
            followed.pop().close()
            followed.append(stack.enter_context(monitor(place)))
        assert changing.returncode == 0
        fresh = without_incarnations(stack.enter_context(monitor(place)))
        assert len(fresh) == 1 + 100 + 2
        for each in followed:
            each.read()
            assert without_incarnations(each) == fresh


def test_without_any_privilege_the_links_are_followed(place):
    code = """if True:
        import select, sys
        from flowstream.host import privileges
        from flowstream.host.links import LinkMonitor
        from flowstream.host.namespaces import Namespace
        with Namespace.open(sys.argv[1]) as opened:
            followed = LinkMonitor(opened)
        privileges.give_up(privileges.User(65534, 65534))
        print(flush=True)
        for line in sys.stdin:
            assert select.select([followed.fd], [], [], 60)[0]
            followed.read()
            print(*(link.name for link in followed.links().values()), flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, place.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as child:
        assert child.stdout.readline() == "\n"
        batch(place, "link add new type ifb")
        child.stdin.write("\n")
        assert child.stdout.readline().split() == ["lo", "new"]
        batch(place, "link set new name newer")
        child.stdin.write("\n")
        assert child.stdout.readline().split() == ["lo", "newer"]
        batch(place, *(f"link set lo mtu {1000 + each % 500}" for each in range(MESSAGES)))
        batch(place, "link delete newer")
        assert drops(place) > 0
        child.stdin.write("\n")
        assert child.stdout.readline() == "lo\n"
        child.stdin.close()


# A link's message: struct nlmsghdr, struct ifinfomsg, attributes.
def attribute(kind: int, octets: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(octets), kind) + octets + bytes(-len(octets) % 4)


def link(*attributes: bytes, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 1, 7, 1, 0) + b"".join(attributes)


def message(kind: int, body: bytes, seq: int = 1, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, seq, 0) + body


WHOLE = link(
    attribute(3, b"x0\0"),
    attribute(4, struct.pack("=I", 1500)),
    # Nested, with the flag.
    attribute(18 | 0x8000, attribute(1, b"veth\0")),
    attribute(52 | 0x8000, attribute(53, b"x1\0") + attribute(53, b"x2\0")),
)


def facts(body: bytes) -> LinkFacts | None:
    return facts_of(rtnetlink.link_message(memoryview(body)), reports_parents=True)


def test_a_message_of_the_kernel():
    expected = LinkFacts(7, "x0", altnames=("x1", "x2"), kind="veth", mtu=1500)
    assert facts(WHOLE) == expected
    (read_back,) = netlink.messages(message(16, WHOLE, seq=7, flags=2))
    assert (read_back.kind, read_back.flags, read_back.seq) == (16, 2, 7)
    assert bytes(read_back.body) == WHOLE


def test_messages_about_parts_of_a_link():
    """Of bridges (family AF_BRIDGE), and of wireless drivers."""
    assert facts(link(attribute(3, b"x0\0"), attribute(4, bytes(4)), family=7)) is None
    assert facts(link(attribute(3, b"x0\0"), attribute(11, bytes(20)))) is None


@pytest.mark.parametrize("end", range(1, len(WHOLE)))
def test_a_message_that_is_cut_off(end):
    """Where an attribute ends, with or without its padding, it is another, shorter message."""
    if end in (16, 23, 24, 32, 48):
        rtnetlink.link_message(memoryview(WHOLE[:end]))
    else:
        with pytest.raises(DamagedMessageError):
            facts(WHOLE[:end])


def test_several_messages_with_the_last_cut_off():
    octets = message(16, WHOLE) + message(3, bytes(4))
    assert [each.kind for each in netlink.messages(octets)] == [16, 3]
    for end in range(len(octets) - 19, len(octets)):
        found = netlink.messages(octets[:end])
        assert next(found).kind == 16
        with pytest.raises(DamagedMessageError):
            next(found)


def test_numbers_of_another_size():
    with pytest.raises(DamagedMessageError, match="a number of 2 octets"):
        facts(link(attribute(4, bytes(2))))


def test_the_end_of_an_answer():
    done, failed, fine, other = netlink.messages(
        message(3, struct.pack("=i", 0))
        + message(2, struct.pack("=i", -16))
        + message(2, struct.pack("=i", 0))
        + message(16, WHOLE)
    )
    assert [*map(netlink.error_of, (done, failed, fine, other))] == [0, 16, 0, 0]


def test_attributes_have_the_numbers_of_the_kernels_header():
    header = Path("/usr/include/linux/if_link.h").read_text(encoding="utf-8")
    inside = header[header.index("IFLA_UNSPEC") : header.index("__IFLA_MAX")]
    names = [
        line.split(",")[0].split("=")[0].strip()
        for line in inside.splitlines()
        if line.strip().startswith("IFLA_") and "=" not in line
    ]
    assert {each: names.index(each.name) for each in Attribute} == {e: e.value for e in Attribute}
