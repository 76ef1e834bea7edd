"""Attachments that come and go while the agent runs, on real devices."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.agent import audited, carried, delivered, quiet, records_of
from support.outcomes import eventually
from support.rig import Rig, finals
from support.traffic import load

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.errors import UsageError
from flowstream.kernel import libbpf

if TYPE_CHECKING:
    from flowstream.pipeline.probe import Attachment

pytestmark = pytest.mark.anyio

PACKETS = 20_011
FLOWS = 1_009


@pytest.mark.parametrize("program", ["flow", "counter"])
async def test_one_is_added_and_one_removed_while_traffic_flows(tmp_path, pairs, program):
    (sender, first), (other_sender, second) = pairs
    rig = Rig(f"file:{tmp_path}/recording", program)
    attachment = rig.add(first)
    async with rig.running():
        arrived = await asyncio.to_thread(delivered, sender, first, PACKETS, "-f", FLOWS)
        rig.add(second)
        # Both have traffic when the first one goes.
        with load(sender, FLOWS):
            other = asyncio.ensure_future(
                asyncio.to_thread(delivered, other_sender, second, 5 * PACKETS, "-f", FLOWS)
            )
            await goes_on(attachment)
            await asyncio.wait_for(rig.agent.remove(attachment.key), 60)
            # The sink writes in its own time.
            deadline = time.monotonic() + 60
            while not (found := await finals(rig.url)):
                assert time.monotonic() < deadline
            assert found == [first.index]
        other_arrived = await other
        other_arrived += await asyncio.to_thread(delivered, other_sender, second, PACKETS)
    assert await finals(rig.url) == [first.index, second.index]
    one, two = await asyncio.to_thread(audited, rig.url)
    assert (one["if_index"], two["if_index"]) == (first.index, second.index)
    assert one["seen"]["packets"] > arrived
    assert two["seen"]["packets"] == other_arrived
    if program == "flow":
        assert one["flows"] == one["seen"]
        assert await asyncio.to_thread(carried, rig.url) == {
            first.index: one["seen"]["packets"],
            second.index: other_arrived,
        }


async def test_an_interface_that_comes_back_is_counted_on(tmp_path, pairs):
    ((sender, device), _) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow")
    rig.add(device)
    async with rig.running():
        before = await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
        await asyncio.wait_for(rig.agent.remove(AttachmentKey(device.index)), 60)
        await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
        rig.add(device)
        after = await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
    (interface,) = await asyncio.to_thread(audited, rig.url)
    assert interface["seen"]["packets"] == interface["flows"]["packets"] == before + after


async def test_an_interface_that_is_back_before_its_final_counters_is_counted_on(tmp_path, pairs):
    """Neither a slow broker nor a lost one keeps an interface from being observed again."""
    ((sender, device), _) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow")
    attachment = rig.add(device)
    arrived = 0
    async with rig.running():
        for _ in range(3):
            arrived += await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
            await asyncio.wait_for(rig.agent.remove(attachment.key), 60)
            attachment = rig.add(device)
    (interface,) = await asyncio.to_thread(audited, rig.url)
    assert interface["seen"]["packets"] == interface["flows"]["packets"] == arrived


async def test_an_attachment_that_went_holds_no_descriptor(tmp_path, pairs):
    ((_, device), _) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow")
    async with rig.running():
        await asyncio.sleep(0)
        before = descriptors()
        key = rig.add(device).key
        assert descriptors() > before
        await asyncio.wait_for(rig.agent.remove(key), 60)
        assert descriptors() <= before


async def test_the_first_counters_of_an_interface_are_published_at_once(tmp_path, pairs):
    ((_, first), (_, second)) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow", counters_period_s=3600.0)
    rig.add(first)
    async with rig.running():
        await counted(rig.url, [first.index])
        rig.add(second)
        await counted(rig.url, [first.index, second.index])


async def goes_on(attachment: Attachment) -> None:
    """Wait until its program sees packets."""
    seen = attachment.counters().seen.packets
    await eventually(lambda: attachment.counters().seen.packets > seen)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len([*Path("/proc/self/fd").iterdir()])


async def counted(url: str, indexes: list[int]) -> None:
    """Wait until these interfaces have counters, one record each."""
    deadline = time.monotonic() + 60
    while True:
        records = await asyncio.to_thread(records_of, url, "flowstream.counters")
        if [each.if_index for each in records] == indexes:
            return
        assert time.monotonic() < deadline, records


async def test_packets_that_found_the_table_full_come_along(tmp_path, pairs):
    """A removal empties the ring that all attachments share, too."""
    ((sender, device), _) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow", max_flows=16)
    rig.add(device)
    async with rig.running():
        arrived = await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
        await asyncio.wait_for(rig.agent.remove(AttachmentKey(device.index)), 60)
    (interface,) = await asyncio.to_thread(audited, rig.url)
    lost = interface["losses"]["overflow_lost"]["packets"]
    assert interface["seen"]["packets"] == arrived
    assert interface["flows"]["packets"] == arrived - lost


async def test_an_end_during_a_removal_does_the_rest(tmp_path, pairs):
    ((sender, device), _) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow")
    rig.add(device)
    async with rig.running():
        arrived = await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
        removal = asyncio.ensure_future(rig.agent.remove(AttachmentKey(device.index)))
        await asyncio.sleep(0)
        rig.agent.stop()
    await asyncio.wait_for(removal, 60)
    assert await finals(rig.url) == [device.index]
    (interface,) = await asyncio.to_thread(audited, rig.url)
    assert interface["flows"]["packets"] == arrived


async def test_what_is_there_or_not_there_is_an_error(tmp_path, pairs):
    ((_, device), (_, other)) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow")
    attachment = rig.add(device)
    async with rig.running():
        with pytest.raises(UsageError, match=f"{device.name}: already attached"):
            rig.agent.add(attachment)
        with pytest.raises(KeyError):
            await rig.agent.remove(AttachmentKey(other.index))


@pytest.mark.parametrize("program", ["flow", "counter"])
async def test_another_sampling_rate_under_traffic(recording_url, pairs, program):
    """Links are taken over, some within one interval: each packet is counted once."""
    (sender, device), (other_sender, other) = pairs
    rig = Rig(recording_url, program, interval_s=1)
    attachment = rig.add(device)
    rig.add(other)
    before = [each.statistic("rx_packets") for each in (device, other)]
    async with rig.running():
        with load(sender, FLOWS), load(other_sender, FLOWS):
            for rate in (7, 5, 1, 3, 2):
                await goes_on(attachment)
                attachment = await asyncio.to_thread(rig.succeed, attachment, device, rate)
                rig.agent.replace(attachment)
            if program == "flow":
                # Entries of the table that was active during a change keep the former rate.
                swaps = rig.probe.swaps
                await eventually(lambda: rig.probe.swaps > swaps)
            await goes_on(attachment)
        received = [await asyncio.to_thread(quiet, each) for each in (device, other)]
        arrived, others_arrived = (now - then for now, then in zip(received, before, strict=True))
    one, two = await asyncio.to_thread(audited, rig.url)
    assert (one["seen"]["packets"], two["seen"]["packets"]) == (arrived, others_arrived)
    assert one["no_flow"]["sampled_out"]["packets"] > 0
    assert two["no_flow"]["sampled_out"]["packets"] == 0
    if program == "flow":
        found = await asyncio.to_thread(records_of, rig.url, "flowstream.flows")
        assert {each.sampling_rate for each in found if each.if_index == other.index} == {1}
        rates = [each.sampling_rate for each in found if each.if_index == device.index]
        assert {rates[0], rates[-1]} == {1, 2}
        assert set(rates) <= {1, 7, 5, 3, 2}


@pytest.mark.parametrize("program", ["flow", "counter"])
async def test_another_rate_just_before_the_attachment_goes_or_the_run_ends(
    recording_url, pairs, program
):
    (_, first), (_, second) = pairs
    rig = Rig(recording_url, program, interval_s=3600)
    attachments = [rig.add(first), rig.add(second)]
    async with rig.running():
        arrived = [
            await asyncio.to_thread(delivered, *pair, PACKETS, "-f", FLOWS) for pair in pairs
        ]
        rates = (7, 1, 5, 1)
        for rate in rates:
            for place, device in enumerate((first, second)):
                new = await asyncio.to_thread(rig.succeed, attachments[place], device, rate)
                rig.agent.replace(new)
                attachments[place] = new
                arrived[place] += await asyncio.to_thread(delivered, *pairs[place], FLOWS)
        new = await asyncio.to_thread(rig.succeed, attachments[0], first, 3)
        rig.agent.replace(new)
        await asyncio.wait_for(rig.agent.remove(new.key), 60)
        new = await asyncio.to_thread(rig.succeed, attachments[1], second, 1)
        arrived[1] += await asyncio.to_thread(delivered, *pairs[1], FLOWS)
        rig.agent.stop()
        rig.agent.replace(new)
    one, two = await asyncio.to_thread(audited, rig.url)
    assert [one["seen"]["packets"], two["seen"]["packets"]] == arrived
    for device in (first, second):
        with device.namespace.entered():
            assert libbpf.attached_program(device.index) is None
