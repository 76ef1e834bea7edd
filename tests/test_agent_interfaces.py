"""Interfaces that an agent chooses at its start: by patterns, kinds and network namespaces."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, delivered, flowstream
from support.following import Site
from support.net import Namespace, namespace, veth_pair
from support.traffic import wait_until

from flowstream.kernel.counter import CounterProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKETS = 5_003
TUNSETIFF, TUNSETLINK = 0x400454CA, 0x400454CD
IFF_TUN_NO_PI = 0x1001
ARPHRD_CAN = 280


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    """A namespace with two veth pairs and two virtual interfaces without traffic."""
    with (
        namespace() as made,
        veth_pair(made, names=("near0", "far0")),
        veth_pair(made, names=("near1", "far1")),
    ):
        made.run("ip", "link", "add", "idle0", "type", "ifb")
        made.run("ip", "link", "add", "bridge0", "type", "bridge")
        made.run(
            "ip", "link", "property", "add", "dev", "far1", "altname", "a-long-altname-of-far1"
        )
        yield made


def attached(place: Namespace, *options: str) -> list[str]:
    """Names of the interfaces to which an agent attaches."""
    generic = ("--netns", place.name, "--mode", "generic", "--sink", "stdout:", "--duration", 0.1)
    with Agent(*options, *generic) as agent:
        assert agent.wait() == 0, agent.output()
        return [each["interface"] for each in agent.logs("attached")]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("-i far*", "far0 far1"),
        ("-i far1 -i *0 -i !near* -i !lo", "far1 far0 idle0 bridge0"),
        ("-i a-long-altname-of-far1", "far1"),
        ("--interface-kind ifb --interface-kind bridge", "idle0 bridge0"),
        ("-i *0 --interface-kind veth", "far0 near0"),
        ("-i lo", "lo"),
    ],
)
def test_patterns_and_kinds(place, options, names):
    assert sorted(attached(place, *options.split())) == sorted(names.split())


def test_no_interface_that_matches(place, recording_url):
    """Nothing in the namespace has a device behind it: the agent waits for one."""
    where = ("--netns", place.name, "--sink", recording_url)
    with Agent(*where) as agent:
        agent.publishing()
        assert agent.logs("attached") == []
        assert len(agent.logs("no_interface_matches")) == 1
        agent.stop()


@pytest.mark.parametrize(
    ("options", "status", "complaint"),
    [
        ("-i far0 -i !far?", 2, "interface: far0 is excluded by !far?"),
        ("-i far0 --interface-kind tun", 2, "interface: far0 is veth, not tun"),
        (
            "-i far1 -i a-long-altname-of-far1",
            2,
            "interface: a-long-altname-of-far1 is the same interface as far1",
        ),
        (
            "-i far2",
            1,
            "no interface 'far2'; there are: bridge0, far0, far1, idle0, lo, near0, near1",
        ),
    ],
)
def test_names_that_cannot_be_observed(place, recording_url, options, status, complaint):
    with Agent(*options.split(), "--netns", place.name, "--sink", recording_url) as agent:
        assert agent.wait() == status
        assert agent.output() == f"flowstream: error: {complaint}\n"


def test_a_link_type_that_cannot_be_read(place, recording_url):
    with place.entered(), open("/dev/net/tun", "r+b", buffering=0) as device:  # noqa: PTH123
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"can0", IFF_TUN_NO_PI))
        fcntl.ioctl(device, TUNSETLINK, ARPHRD_CAN)
        with Agent("-i", "can0", "--netns", place.name, "--sink", recording_url) as agent:
            assert agent.wait() == 1
            *_, complaint = agent.output().splitlines()
            assert complaint.startswith("flowstream: error: interface can0: packets of link type")
            assert complaint.endswith(" cannot be read; leave it out by -i '!can0'")


def test_interfaces_of_several_namespaces(recording_url):
    """Two have the same name and index: records tell them apart by the namespace's number."""
    with ExitStack() as stack:
        here, blue, red = (stack.enter_context(namespace()) for _ in range(3))
        wires = [
            stack.enter_context(veth_pair(here, place, names=(f"to{number}", "eth0")))
            for number, place in enumerate((blue, red))
        ]
        names = (blue.name, str(red.path))
        options = ("-i", "eth0", "--netns", names[0], "--netns", names[1], "--sink", recording_url)
        with Agent(*options) as agent:
            agent.publishing()
            logged = [(each["interface"], each["netns"]) for each in agent.logs("attached")]
            assert logged == [("eth0", name) for name in names]
            arrived = [
                delivered(wire.sender, wire.receiver, PACKETS + number, "-f", 17)
                for number, wire in enumerate(wires)
            ]
            agent.stop()
    assert wires[0].receiver.index == wires[1].receiver.index
    assert [
        (each["if_index"], each["if_name"], each["netns"], each["flows"]["packets"])
        for each in audited(recording_url)
    ] == [
        (number << 24 | wire.receiver.index, "eth0", name, count)
        for number, (wire, name, count) in enumerate(zip(wires, names, arrived, strict=True))
    ]


def test_one_namespace_under_two_labels(place, recording_url):
    where = ("--netns", place.name, "--netns", str(place.path), "--sink", recording_url)
    with Agent("-i", "far0", *where) as agent:
        assert agent.wait() == 2
        assert agent.output() == (
            f"flowstream: error: netns: {place.name} and {place.path} are one namespace\n"
        )


def connect(near: Namespace, far: Namespace, ends: tuple[str, str], network: int) -> None:
    """Give a device in each of two namespaces an address, and the address of the other one."""
    places = tuple(zip((near, far), ends, (1, 2), strict=True))
    for place, name, host in places:
        place.run("ip", "link", "set", name, "up")
        place.run("ip", "address", "add", f"10.0.{network}.{host}/24", "dev", name)
    for (place, name, _), (other, device, host) in (places, places[::-1]):
        mac = other.run("cat", f"/sys/class/net/{device}/address").strip()
        place.run("ip", "neigh", "add", f"10.0.{network}.{host}", "lladdr", mac, "dev", name)


def test_what_interfaces_above_one_another_see(recording_url):
    """As flowstream check says: a macvlan the same packets again, a tunnel what was inside."""
    with (
        namespace() as near,
        namespace() as far,
        veth_pair(near, far, names=("out", "port")),
    ):
        near.run("ip", "link", "set", "out", "arp", "on")
        far.run("ip", "link", "add", "link", "port", "name", "upper", "type", "macvlan")
        connect(near, far, ("out", "port"), 0)
        connect(near, far, ("out", "upper"), 1)
        for place, device, other in ((near, "out", 2), (far, "port", 1)):
            tunnel = ("vxlan", "id", "7", "dstport", "4789", "remote", f"10.0.0.{other}")
            place.run("ip", "link", "add", "tunnel", "type", *tunnel, "dev", device)
        connect(near, far, ("tunnel", "tunnel"), 2)
        where = ("-i", "port", "-i", "upper", "-i", "tunnel", "--netns", far.name)
        with Agent(*where, "--sink", recording_url) as agent:
            agent.publishing()
            for address, count in (("10.0.0.2", 3), ("10.0.1.2", 5), ("10.0.2.2", 7)):
                near.run("ping", "-q", "-c", str(count), "-i", "0.01", "-w", "30", address)
            agent.stop()
        seen = {each["if_name"]: each["flows"]["packets"] for each in audited(recording_url)}
        assert seen == {"port": 3 + 5 + 7, "upper": 5, "tunnel": 7}
        text = flowstream("check", *where).stdout
    assert "warn  upper: all its packets are seen on port too -> " in text
    assert "warn  tunnel: its packets are seen on port too, in the tunnel's packets: " in text


def test_names_are_any_octets(recording_url):
    """Of up to 15 octets, not only UTF-8; a terminal is shown none of them raw."""
    names = [os.fsdecode(b"\x1b[2J\xff"), "a" * 15, "!odd"]
    with namespace() as place:
        for name in names:
            place.run("ip", "link", "add", name, "type", "ifb")
        where = ("-i", "?*", "-i", "!lo", "-i", "[!]odd", "--netns", place.name)
        with Agent(*where, "--sink", recording_url, "--duration", 0.1) as agent:
            assert agent.wait() == 0, agent.output()
            logged = [each["interface"] for each in agent.logs("attached")]
        assert sorted(logged) == sorted(names)
        assert len(audited(recording_url)) == len(names)
        checked = flowstream("check", *where)
    assert r"ok    \x1b[2J\udcff: no XDP program attached" in checked.stdout.splitlines()
    assert checked.returncode == 0


def test_an_interface_that_another_program_holds_is_logged_once_and_taken_once_it_is_free(
    place, recording_url
):
    """Without privileges the agent does not know the program's name: the reason is the same."""
    with ExitStack() as stack:
        with CounterProbe(max_flows=101) as other, place.entered(), other.attach("far1") as holder:
            held = f"program {holder.program.name} (id {holder.program.id}) is already there"
            options = ("-i", "far*", "--netns", place.name, "--sink", recording_url)
            agent = stack.enter_context(Agent(*options)).publishing()
            # A change of the interface is a reason to try again, at once.
            place.run("ip", "link", "set", "far1", "mtu", "1400")
            for change in ("down", "up"):
                place.run("ip", "link", "set", "far0", change)
                assert wait_until(lambda: "far0" in told(agent, f"interface_{change}"))  # noqa: B023
        assert wait_until(lambda: "far1" in told(agent, "attached")), agent.output()
        place.run("ip", "link", "set", "far1", "mtu", "1500")
        agent.stop()
        (failed,) = agent.logs("attach_failed")
        assert held in failed["error"]
        (ended,) = agent.logs("ended")
        assert ended["failed_attaches"] >= 2


def test_a_lack_of_descriptors_keeps_only_new_interfaces_waiting(recording_url):
    with namespace() as here, namespace() as there:
        site = Site(here, there)
        links = [site.create()]
        where = ("-i", "far*", "--netns", there.name)
        options = ("--sink", recording_url, "--partitions", "1")
        with Agent(*where, *options, before=("prlimit", "--nofile=64")) as agent:
            agent.publishing()
            while not agent.logs("attach_failed"):
                assert len(links) < 22
                links.append(site.create())
                assert wait_until(lambda: links[-1].receiver.name in told(agent))
            for link in links[:-1]:
                link.send()
            # Their descriptors are enough for the last one.
            for link in links[:2]:
                link.delete()
            last = links[-1]
            assert wait_until(lambda: last.receiver.name in told(agent, "attached")), (
                agent.output()
            )
            last.send()
            agent.stop()
            assert all("LimitNOFILE" in each["error"] for each in agent.logs("attach_failed"))
    found = {each["if_index"]: each["flows"]["packets"] for each in audited(recording_url)}
    assert found == {link.index: link.arrived for link in links}


def told(agent: Agent, *kinds: str) -> set[str]:
    """Names of the interfaces of which the agent has logged these events."""
    found = kinds or ("attached", "attach_failed")
    return {each["interface"] for kind in found for each in agent.logs(kind)}
