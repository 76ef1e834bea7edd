"""Interfaces that come and go while the agent runs, on real devices, settled by the audit."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packets.build import SRC_PORT, ip4, udp
from support.agent import audited, carried, quiet, records_of
from support.following import PACKETS, Site, following, until
from support.net import namespace
from support.programs import take_off
from support.rig import finals
from support.traffic import load
from support.tun import tun_device

from flowstream.errors import KernelError
from flowstream.following.places import Place
from flowstream.host.links import LinkFacts, LinkMonitor
from flowstream.host.namespaces import Namespace as Observed
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import INGRESS, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.following import Link

pytestmark = pytest.mark.anyio


@pytest.fixture
def site() -> Iterator[Site]:
    """Two namespaces without devices."""
    with namespace() as here, namespace() as there:
        yield Site(here, there)


async def accounted(url: str, *links: Link) -> None:
    """Every packet that arrived at these links is in the flow records, and no other."""
    arrived: dict[int, int] = {}
    for link in links:
        arrived[link.index] = arrived.get(link.index, 0) + link.arrived
    found = await asyncio.to_thread(audited, url)
    assert {each["if_index"]: each["seen"]["packets"] for each in found} == arrived
    assert all(each["flows"] == each["seen"] for each in found)
    assert await asyncio.to_thread(carried, url) == {k: v for k, v in arrived.items() if v}


async def until_final(url: str, *indexes: int) -> None:
    """Wait until these interfaces, and no others, have final counters."""
    deadline = time.monotonic() + 60
    while (found := sorted(await finals(url))) != [*indexes]:
        assert time.monotonic() < deadline, found


async def test_an_interface_that_comes_is_observed_until_it_goes(site, recording_url):
    async with following(recording_url, [site.there.name]) as rig:
        await until(lambda: rig.events("no_interface_matches"))
        link = await asyncio.to_thread(site.create)
        await until(lambda: rig.events("attached", link.receiver.name))
        await asyncio.to_thread(link.send)
        await asyncio.to_thread(link.delete)
        await until(lambda: rig.events("interface_gone", link.receiver.name))
        await until_final(recording_url, link.index)
        other = await asyncio.to_thread(site.create)
        await until(lambda: rig.events("attached", other.receiver.name))
        await asyncio.to_thread(other.send)
    (ended,) = rig.events("ended")
    assert (ended["attached"], ended["detached"], ended["failed_attaches"]) == (2, 1, 0)
    assert len(rig.events("no_interface_matches")) == 2
    await accounted(recording_url, link, other)


async def test_a_renamed_interface_is_observed_on_under_its_new_name(site, recording_url):
    link = site.create()
    async with following(recording_url, [site.there.name]) as rig:
        await asyncio.to_thread(link.send)
        async with asyncio.timeout(60):
            while not await recorded(recording_url, "flows"):
                pass
        await asyncio.to_thread(link.rename, "farther")
        await until(lambda: rig.events("interface_renamed"))
        await asyncio.to_thread(link.send)
    (renamed,) = rig.events("interface_renamed")
    assert (renamed["interface"], renamed["before"]) == ("farther", "far0")
    assert not rig.events("interface_gone")
    await accounted(recording_url, link)
    names = [each.if_name for each in await recorded(recording_url, "flows")]
    assert set(names) == {"far0", "farther"}
    assert {each.if_name for each in await recorded(recording_url, "counters") if each.final} == {
        "farther"
    }


async def test_a_name_that_is_not_chosen_any_more_ends_the_attachment(site, recording_url):
    link = site.create()
    async with following(recording_url, [site.there.name]) as rig:
        await asyncio.to_thread(link.send)
        await asyncio.to_thread(link.rename, "other")
        await until(lambda: rig.events("interface_left_out"))
        await until_final(recording_url, link.index)
        arrived = link.arrived
        await asyncio.to_thread(link.send)
        link.arrived = arrived
        await asyncio.to_thread(link.rename, "far0")
        await until(lambda: len(rig.events("attached")) == 2)
        await asyncio.to_thread(link.send)
    await accounted(recording_url, link)


async def test_an_interface_that_moves_away_and_back_is_counted_on(site, recording_url):
    link = site.create()
    index = link.index
    with namespace() as elsewhere:
        async with following(recording_url, [site.there.name]) as rig:
            await asyncio.to_thread(link.send)
            await asyncio.to_thread(link.move, elsewhere)
            await until(lambda: rig.events("interface_moved", "far0"))
            await until_final(recording_url, index)
            await asyncio.to_thread(link.move, site.there)
            assert link.index == index
            await until(lambda: len(rig.events("attached")) == 2)
            await asyncio.to_thread(link.send)
    assert not rig.events("attach_failed")
    assert await finals(recording_url) == [index, index]
    await accounted(recording_url, link)


async def test_an_interface_that_moves_between_observed_namespaces(site, recording_url):
    link = site.create()
    before = link.index
    with namespace() as elsewhere:
        async with following(recording_url, [site.there.name, elsewhere.name]) as rig:
            await asyncio.to_thread(link.send)
            first, link.arrived = link.arrived, 0
            await asyncio.to_thread(link.move, elsewhere)
            await until(lambda: len(rig.events("attached")) == 2)
            await asyncio.to_thread(link.send)
    assert [each["netns"] for each in rig.events("attached")] == [
        site.there.name,
        elsewhere.name,
    ]
    assert not rig.events("attach_failed")
    found = await asyncio.to_thread(audited, recording_url)
    assert {each["if_index"]: each["flows"]["packets"] for each in found} == {
        before: first,
        1 << 24 | link.index: link.arrived,
    }


async def test_a_name_that_is_used_again_is_another_interface(site, recording_url):
    first = site.create("far")
    async with following(recording_url, [site.there.name]) as rig:
        await asyncio.to_thread(first.send)
        await asyncio.to_thread(first.delete)
        second = await asyncio.to_thread(site.create, "far")
        assert second.index != first.index
        await until(lambda: len(rig.events("attached")) == 2)
        await asyncio.to_thread(second.send)
    assert len(rig.events("interface_gone", "far")) == 1
    assert sorted(await finals(recording_url)) == [first.index, second.index]
    await accounted(recording_url, first, second)


async def test_an_index_that_is_used_again_goes_on_with_its_counts(site, recording_url):
    first = site.create("far", index=211)
    async with following(recording_url, [site.there.name]) as rig:
        await asyncio.to_thread(first.send)
        await asyncio.to_thread(first.delete)
        second = await asyncio.to_thread(site.create, "far", index=211)
        await until(lambda: len(rig.events("attached")) == 2)
        await asyncio.to_thread(second.send)
    assert len(rig.events("interface_gone", "far")) == 1
    await accounted(recording_url, first, second)


@pytest.mark.parametrize("change", ["mtu", "bridge"])
async def test_traffic_goes_on_while_an_interface_changes(site, recording_url, change):
    link = site.create()
    site.there.run("ip", "link", "add", "bridge", "type", "bridge")
    changes = {
        "mtu": [("mtu", "1500"), ("mtu", "9000"), ("mtu", "1400")],
        "bridge": [("master", "bridge"), ("nomaster",), ("master", "bridge")],
    }
    async with following(recording_url, [site.there.name]) as rig:
        before = link.receiver.statistic("rx_packets")
        with load(link.sender, 1, 20 * PACKETS):
            for options in changes[change]:
                sent = link.sender.statistic("tx_packets")
                await until(lambda sent=sent: link.sender.statistic("tx_packets") > sent)
                await asyncio.to_thread(link.set, *options)
        link.arrived = await asyncio.to_thread(quiet, link.receiver) - before
    assert len(rig.events("attached")) == 1
    assert link.arrived > 0
    await accounted(recording_url, link)


async def test_an_interface_that_goes_down_stays_attached(site, recording_url):
    link = site.create()
    async with following(recording_url, [site.there.name]) as rig:
        await asyncio.to_thread(link.send)
        for event in ("down", "up", "down", "up"):
            seen = len(rig.events(f"interface_{event}", "far0"))
            await asyncio.to_thread(link.set, event)
            await until(lambda: len(rig.events(f"interface_{event}", "far0")) == seen + 1)  # noqa: B023
        await asyncio.to_thread(link.send)
    assert len(rig.events("attached")) == 1
    await accounted(recording_url, link)


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
async def test_another_program_there_first_keeps_one_interface_only(site, recording_url, mode):
    held, whole = site.create(), site.create()
    with CounterProbe() as probe:
        with site.there.entered():
            other = attach_here(probe, Target.named("far0", mode))
        async with following(recording_url, [site.there.name]) as rig:
            (failed,) = rig.events("attach_failed")
            assert failed["interface"] == "far0"
            assert str(other.program.id) in failed["error"]
            await asyncio.to_thread(whole.send)
            # It is tried again, and logged once.
            await until(lambda: rig.failed > 1)
            assert len(rig.events("attach_failed")) == 1
            other.close()
            await until(lambda: rig.events("attached", "far0"))
            await asyncio.to_thread(held.send)
    await accounted(recording_url, held, whole)


@pytest.mark.parametrize("how", ["detached", "replaced"])
async def test_a_program_that_another_process_takes_off_comes_back(site, recording_url, how):
    link, whole = site.create(), site.create()
    async with following(recording_url, [site.there.name]) as rig:
        await asyncio.to_thread(link.send)
        (ours,) = (each["program_id"] for each in rig.events("attached", "far0"))
        await asyncio.to_thread(take_off, ours, how)
        await until(lambda: len(rig.events("attached", "far0")) == 2)
        await asyncio.to_thread(link.send)
        await asyncio.to_thread(whole.send)
    (replaced,) = rig.events("program_replaced")
    assert replaced["interface"] == "far0"
    assert replaced["program_id"] != ours
    assert (replaced["program_id"] == 0) == (how == "detached")
    assert len(rig.events("attached", "far1")) == 1
    await accounted(recording_url, link, whole)


async def test_namespaces_by_name_path_and_process_with_equal_indexes(recording_url):
    with ExitStack() as stack:
        here = stack.enter_context(namespace())
        places = [stack.enter_context(namespace()) for _ in range(3)]
        sleeper = stack.enter_context(places[2].popen("sleep", "3600"))
        stack.callback(sleeper.kill)
        links = [Site(here, place, number * 10).create() for number, place in enumerate(places)]
        assert len({link.index for link in links}) == 1
        labels = [places[0].name, str(places[1].path), f"pid:{sleeper.pid}"]
        # ip netns exec has entered the namespace by the time that it has become sleep.
        await until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n")
        async with following(recording_url, labels) as rig:
            for link in links:
                await asyncio.to_thread(link.send)
            # One of them goes; the others stay.
            sleeper.kill()
            await until(lambda: rig.events("namespace_gone"))
            await asyncio.to_thread(links[0].send)
    (gone,) = rig.events("namespace_gone")
    assert (gone["netns"], gone["remedy"].split()[0]) == (labels[2], "restart")
    assert [each["netns"] for each in rig.events("attached")] == labels
    found = await asyncio.to_thread(audited, recording_url)
    expected = {number << 24 | link.index: link.arrived for number, link in enumerate(links)}
    assert {each["if_index"]: each["flows"]["packets"] for each in found} == expected
    counters = await recorded(recording_url, "counters")
    assert {each.if_index: each.netns for each in counters} == dict(
        zip(expected, labels, strict=True)
    )


async def test_a_namespace_that_goes_is_released_and_without_another_the_run_ends(recording_url):
    """Else its devices would live on: the other ends of its veth pairs vanish with it."""
    with namespace() as here, ExitStack() as stack:
        place = stack.enter_context(namespace())
        link = Site(here, place).create()
        async with following(recording_url, [place.name], status=1) as rig:
            await asyncio.to_thread(link.send)
            stack.close()
            await until(lambda: rig.events("namespace_gone"))
            await until(lambda: "near0" not in here.run("ip", "-br", "link"))
            # By itself.
            await until_final(recording_url, link.index)
    (fault,) = rig.events("a stage failed")
    assert fault["error"].startswith("all network namespaces of --netns are gone: start the agent")
    assert not rig.events("no_interface_matches")
    await accounted(recording_url, link)


async def test_an_interface_that_goes_before_it_is_attached_is_no_error(site, recording_url):
    whole = site.create()
    tried: list[str] = []

    def before_attach(target: Target) -> None:
        if target.interface.startswith("far-"):
            site.there.run("ip", "link", "delete", target.interface)
            tried.append(target.interface)

    async with following(recording_url, [site.there.name], before_attach=before_attach) as rig:
        for number in range(5):
            pair = ("ip", "link", "add", f"far-{number}", "type", "veth", "peer", f"peer-{number}")
            await asyncio.to_thread(site.there.run, *pair)
            await until(lambda: len(tried) > number)  # noqa: B023 - within this round
        last = await asyncio.to_thread(site.create)
        await until(lambda: rig.events("attached", last.receiver.name))
        await asyncio.to_thread(whole.send)
    assert not rig.events("attach_failed")
    (ended,) = rig.events("ended")
    assert (ended["attached"], ended["detached"], ended["failed_attaches"]) == (2, 0, 0)
    await accounted(recording_url, whole, last)


async def test_many_interfaces_at_the_start_and_all_gone_at_once(site, recording_url):
    links = [site.create() for _ in range(64)]
    # Tables are swapped only for those that go.
    async with following(recording_url, [site.there.name], interval_s=3_600) as rig:
        for link in links[::7]:
            await asyncio.to_thread(link.send)
        for link in links:
            site.here.run("ip", "link", "set", link.sender.name, "group", "211")
        await asyncio.to_thread(site.here.run, "ip", "link", "delete", "group", "211")
        await until(lambda: len(rig.events("interface_gone")) == 64)
        await until_final(recording_url, *(link.index for link in links))
    (ended,) = rig.events("ended")
    assert (ended["attached"], ended["detached"]) == (64, 64)
    # They share the swaps of the tables.
    last = (await recorded(recording_url, "counters"))[-1]
    assert last.table_swaps < 40
    await accounted(recording_url, *links)


async def test_threads_that_all_share_may_be_busy_when_an_interface_comes(site, recording_url):
    """With detachments that wait for the kernel, or a sink's slow files."""
    async with following(recording_url, [site.there.name]) as rig:
        link = await asyncio.to_thread(site.create)
        await until(lambda: rig.events("attached", link.receiver.name))
        free = threading.Event()
        busy = [asyncio.ensure_future(asyncio.to_thread(free.wait)) for _ in range(64)]
        try:
            with ThreadPoolExecutor(1) as own:
                loop = asyncio.get_running_loop()
                other = await loop.run_in_executor(own, site.create)
            await until(lambda: rig.events("attached", other.receiver.name))
        finally:
            free.set()
            await asyncio.gather(*busy)


async def test_packets_without_a_link_layer_header_are_read_as_ip(site, recording_url):
    packet = ip4(17, udp())
    async with following(recording_url, [site.there.name], pattern="tun*") as rig:
        with tun_device(site.there) as tun:
            await until(lambda: rig.events("attached", "tun0"))
            for _ in range(11):
                tun.receive(packet)
            tun.receive(b"\x60")
    flows = await recorded(recording_url, "flows")
    assert {(each.etype, each.proto, each.src_port, each.src_mac) for each in flows} == {
        (0x0800, 17, SRC_PORT, bytes(6))
    }
    assert sum(each.l2_bytes for each in flows) == 11 * len(packet)
    (found,) = await asyncio.to_thread(audited, recording_url)
    assert found["seen"] == {"packets": 12, "l2_bytes": 11 * len(packet) + 1}
    assert found["no_flow"]["malformed"]["packets"] == 1


def test_what_has_no_known_header_is_refused_clearly():
    """Devices of such kinds, as of a CAN bus, cannot be made everywhere."""
    text = "interface can0: packets of link type 280 cannot be read; leave it out by -i '!can0'"
    with Observed("") as own, LinkMonitor(own) as monitor:
        place = Place(own, monitor)
        with pytest.raises(KernelError, match=re.escape(text)):
            place.target(LinkFacts(3, "can0", link_type=280), INGRESS, Mode.AUTO, 1)
        assert place.target(LinkFacts(3, "tun0", link_type=65534), INGRESS, Mode.AUTO, 1).raw
        assert not place.target(LinkFacts(3, "eth0"), INGRESS, Mode.AUTO, 1).raw


def test_an_index_that_does_not_fit_beside_the_number_of_the_namespace():
    link = LinkFacts(1 << 24, "eth0")
    with Observed("") as own, LinkMonitor(own) as monitor:
        assert Place(own, monitor).target(link, INGRESS, Mode.AUTO, 1).record_index == 1 << 24
        with pytest.raises(KernelError, match="interface eth0 has index 16777216: with several"):
            Place(own, monitor, alone=False).target(link, INGRESS, Mode.AUTO, 1)


async def recorded(url: str, stream: str) -> list[Any]:
    """Records of one topic."""
    return await asyncio.to_thread(records_of, url, f"flowstream.{stream}")
