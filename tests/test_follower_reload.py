"""Another choice of interfaces and another sampling rate, while the agent follows them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from support.agent import audited, records_of
from support.following import PACKETS, Site, following, until
from support.net import namespace

from flowstream.config.run import load
from flowstream.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.following import FollowingRig, Link

    from flowstream.kernel.target import Target
    from flowstream.pipeline.probe import Attachment

pytestmark = pytest.mark.anyio


@pytest.fixture
def site() -> Iterator[Site]:
    """Two namespaces without devices."""
    with namespace() as here, namespace() as there:
        yield Site(here, there)


def follow(rig: FollowingRig, *names: str, sampling: int) -> None:
    """Choose interfaces by their names, with a sampling rate."""
    given = {"interfaces": names, "sampling": str(sampling), "sink": rig.url}
    rig.follower.configure(load(given))


async def seen(url: str) -> dict[int, int]:
    """Packets seen by index; everything must be accounted for."""
    found = await asyncio.to_thread(audited, url)
    return {each["if_index"]: each["seen"]["packets"] for each in found}


@pytest.mark.parametrize("program", ["flow", "counter"])
async def test_another_choice_and_another_rate_under_traffic(site, recording_url, program):
    stays, goes, comes = (site.create(name) for name in ("far-stays", "far-goes", "comes"))
    async with following(recording_url, [site.there.name], program=program) as rig:
        changed = asyncio.Event()
        sending = asyncio.gather(*(send_until(changed, link) for link in (stays, goes)))
        for sampling in (7, 3, 11):
            follow(rig, "far-stays", "far-goes", sampling=sampling)
            for link in (stays, goes):
                await until(lambda: rates_of(rig, link)[-1:] == [sampling])  # noqa: B023
        changed.set()
        await sending
        follow(rig, "far-stays", "comes", sampling=5)
        await until(lambda: rig.events("interface_left_out", "far-goes"))
        await until(lambda: rig.events("attached", "comes"))
        await until(lambda: rates_of(rig, stays)[-1] == 5)
        before = goes.arrived
        for link in (stays, goes, comes):
            await asyncio.to_thread(link.send)
    assert rates_of(rig, stays) == [7, 3, 11, 5]
    assert rates_of(rig, goes) == [7, 3, 11]
    assert rates_of(rig, comes) == []
    assert await seen(recording_url) == {
        stays.index: stays.arrived,
        goes.index: before,
        comes.index: comes.arrived,
    }
    if program == "flow":
        records = await asyncio.to_thread(records_of, recording_url, "flowstream.flows")
        assert {each.sampling_rate for each in records if each.if_index == comes.index} == {5}


async def send_until(over: asyncio.Event, link: Link) -> None:
    """Send packets again and again."""
    while not over.is_set():
        await asyncio.to_thread(link.send, 5 * PACKETS)


def rates_of(rig: FollowingRig, link: Link) -> list[int]:
    """Rates that an interface got one after another."""
    return [each["sampling"] for each in rig.events("resampled", link.receiver.name)]


async def test_a_rate_that_is_refused_is_tried_again(site, recording_url):
    link = site.create()
    refused = 0

    def before_attach(target: Target) -> None:
        nonlocal refused
        if target.link_fd is not None and refused < 2:
            refused += 1
            raise KernelError("loading: no memory")

    async with following(recording_url, [site.there.name], before_attach=before_attach) as rig:
        follow(rig, link.receiver.name, sampling=7)
        await until(lambda: refused == 1)
        await asyncio.to_thread(link.send)
        await until(lambda: rig.events("resampled"))
        await asyncio.to_thread(link.send)
    assert [each["error"] for each in rig.events("attach_failed")] == ["loading: no memory"]
    (ended,) = rig.events("ended")
    assert (ended["attached"], ended["detached"], rig.failed) == (1, 0, 2)
    assert await seen(recording_url) == {link.index: link.arrived}


async def test_an_interface_that_goes_while_its_rate_changes(site, recording_url):
    links = [site.create() for _ in range(5)]

    def before_attach(target: Target) -> None:
        if target.link_fd is not None:
            site.there.run("ip", "link", "delete", target.interface)

    async with following(recording_url, [site.there.name], before_attach=before_attach) as rig:
        for link in links:
            await asyncio.to_thread(link.send)
        follow(rig, *(link.receiver.name for link in links), sampling=7)
        await until(lambda: len(rig.events("interface_gone")) == len(links))
    assert not rig.events("attach_failed")
    assert not rig.events("resampled")
    assert await seen(recording_url) == {link.index: link.arrived for link in links}


async def test_an_attach_that_ends_after_the_run_was_stopped_is_accounted_for(
    site, recording_url, monkeypatch
):
    link = site.create("other")
    loop = asyncio.get_running_loop()
    stopped = threading.Event()

    def attach_while_it_stops(target: Target) -> Attachment:
        attachment = attach(target)
        loop.call_soon_threadsafe(lambda: (rig.agent.stop(), stopped.set()))
        assert stopped.wait(60)
        link.send()
        return attachment

    async with following(recording_url, [site.there.name]) as rig:
        attach = rig.attach
        monkeypatch.setattr(rig, "attach", attach_while_it_stops)
        follow(rig, "other", sampling=1)
        await until(lambda: rig.events("ended"))
    assert await seen(recording_url) == {link.index: link.arrived}
