"""Both directions of interfaces that are followed: what happens to one leaves the other alone."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.agent import audited, delivered
from support.following import Site, following, until
from support.net import namespace
from support.other_xdp import NAME, OtherProgram
from support.programs import take_off
from support.traffic import sent

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.config.run import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.following import FollowingRig, Link

    from flowstream.kernel.target import Target

pytestmark = pytest.mark.anyio

RECEIVED, SENT = 5_003, 3_001


@pytest.fixture
def site() -> Iterator[Site]:
    """Two namespaces without devices."""
    with namespace() as here, namespace() as there:
        yield Site(here, there)


async def exchange(link: Link) -> dict[int, int]:
    """Let an interface receive and send packets; how many by direction."""
    received = await asyncio.to_thread(delivered, link.sender, link.receiver, RECEIVED)
    return {INGRESS: received, EGRESS: await asyncio.to_thread(sent, link.receiver, SENT)}


async def seen(url: str) -> dict[int, int]:
    """Packets that were seen by direction, all of which are in flow records."""
    found = await asyncio.to_thread(audited, url)
    assert all(each["flows"] == each["seen"] for each in found)
    return {each["flow_direction"]: each["seen"]["packets"] for each in found}


def attached(rig: FollowingRig) -> list[tuple[str, str]]:
    """Direction and mode of each attachment so far."""
    return [(each["direction"], each["mode"]) for each in rig.events("attached")]


@pytest.mark.parametrize("how", ["detached", "replaced"])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
async def test_a_program_that_is_taken_off_in_one_direction_comes_back(
    site, recording_url, direction, how
):
    link = site.create()
    options = {"direction": "both", "hook": "tcx"}
    async with following(recording_url, [site.there.name], **options) as rig:
        first = await exchange(link)
        (ours,) = (
            each["program_id"] for each in rig.events("attached") if each["direction"] == direction
        )
        await asyncio.to_thread(take_off, ours, how)
        await until(lambda: len(rig.events("attached")) == 3)
        second = await exchange(link)
    (replaced,) = rig.events("program_replaced")
    assert (replaced["direction"], replaced["program_id"] == 0) == (direction, how == "detached")
    assert attached(rig)[2:] == [(direction, "tcx")]
    (ended,) = rig.events("ended")
    assert (ended["attached"], ended["detached"]) == (3, 1)
    assert await seen(recording_url) == {way: first[way] + second[way] for way in first}


async def test_displaced_by_another_program_it_goes_on_beside_it(site, recording_url):
    link = site.create()
    with ExitStack() as stack:
        tries: list[Target] = []
        others: list[OtherProgram] = []

        def before_attach(target: Target) -> None:
            if target.direction == INGRESS:
                tries.append(target)
                if len(tries) == 2:
                    with site.there.entered():
                        others.append(stack.enter_context(OtherProgram(target.if_index)))

        options = {"before_attach": before_attach, "direction": "both"}
        async with following(recording_url, [site.there.name], **options) as rig:
            first = await exchange(link)
            (ours,) = (each["program_id"] for each in rig.events("attached")[:1])
            await asyncio.to_thread(take_off, ours, "detached")
            await until(lambda: len(rig.events("attached")) == 3)
            second = await exchange(link)
            await until(lambda: others[0].verdicts() == (second[INGRESS], 0))
            assert others[0].in_force
    assert attached(rig) == [("ingress", "native"), ("egress", "tcx"), ("ingress", "tcx")]
    (_, _, beside) = rig.events("attached")
    assert beside["reason"] == f"program {NAME} (id {others[0].id}) is attached"
    assert not rig.events("attach_failed")
    assert await seen(recording_url) == {way: first[way] + second[way] for way in first}


@pytest.mark.parametrize("program", ["flow", "counter"])
async def test_another_sampling_rate_in_both_directions(site, recording_url, program):
    link = site.create()
    options = {"direction": "both", "program": program}
    async with following(recording_url, [site.there.name], **options) as rig:
        first = await exchange(link)
        given = {"interfaces": ["far0"], "sampling": "7", "sink": rig.url}
        rig.follower.configure(load(given))
        await until(lambda: len(rig.events("resampled")) == 2)
        second = await exchange(link)
    assert {each["direction"] for each in rig.events("resampled")} == {"ingress", "egress"}
    assert len(rig.events("attached")) == 2
    found = await asyncio.to_thread(audited, recording_url)
    assert {each["flow_direction"]: each["seen"]["packets"] for each in found} == {
        way: first[way] + second[way] for way in first
    }
    for each in found:
        sampled_out = each["no_flow"]["sampled_out"]["packets"]
        assert 0 < sampled_out < second[each["flow_direction"]]


async def test_an_interface_that_moves_away_and_back(site, recording_url):
    link = site.create()
    with namespace() as elsewhere:
        async with following(recording_url, [site.there.name], direction="both") as rig:
            first = await exchange(link)
            await asyncio.to_thread(link.move, elsewhere)
            await until(lambda: rig.events("interface_moved", "far0"))
            await asyncio.to_thread(link.move, site.there)
            await until(lambda: len(rig.events("attached")) == 4)
            second = await exchange(link)
    assert len(rig.events("interface_moved")) == 1
    assert not rig.events("attach_failed")
    assert await seen(recording_url) == {way: first[way] + second[way] for way in first}
