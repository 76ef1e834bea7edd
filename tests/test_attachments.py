"""Attachments that come and go while the agent runs, on real devices."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.agent import audited, carried, delivered, records_of
from support.net import Interface, namespace, veth_pair
from support.traffic import flood

from flowstream.accounting.tally import AttachmentKey
from flowstream.agent.lifecycle import Agent
from flowstream.agent.pipeline import Publisher
from flowstream.agent.run import PROBES
from flowstream.agent.state import Run
from flowstream.config.run import load
from flowstream.encode import Identity, make_encoder
from flowstream.errors import UsageError
from flowstream.host.identity import new_epoch
from flowstream.kernel.link import Mode
from flowstream.sink import open_sink
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from flowstream.agent.probe import Attachment

pytestmark = pytest.mark.anyio

PACKETS = 20_011
FLOWS = 1_009


@pytest.fixture
def pairs() -> Iterator[list[tuple[Interface, Interface]]]:
    """Two senders, each with the device that it sends to."""
    with ExitStack() as stack:
        here, there = stack.enter_context(namespace()), stack.enter_context(namespace())
        yield [
            stack.enter_context(veth_pair(here, there, names=(f"near{n}", f"far{n}")))
            for n in range(2)
        ]


class Rig:
    """An agent of this process with a probe and a recording."""

    def __init__(self, url: str, program: str, **options: object) -> None:
        config = load({"interfaces": ("unused",), "sink": url, "interval_s": 0.5, **options})
        self.url = url
        run = Run(Identity(new_epoch(), bytes(16), "host-a", bytes(16)))
        self.probe = PROBES[program](max_flows=config.max_flows, sampling=1)
        sink = open_sink(url, run.ledger, partitions=3, record_format="json")
        publisher = Publisher(sink, make_encoder("json", run.identity), run, "flowstream")
        self.agent = Agent(config, self.probe, sink, publisher, run)
        self.topics = [f"flowstream.{stream}" for stream in Stream]
        sink.prepare(self.topics)

    def attach(self, device: Interface) -> Attachment:
        with device.namespace.entered():
            return self.probe.attach(device.name, Mode.NATIVE)

    def add(self, device: Interface) -> Attachment:
        attachment = self.attach(device)
        self.agent.add(attachment)
        return attachment

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.ensure_future(self.agent.run(self.topics))
        try:
            yield
            self.agent.stop()
            assert await asyncio.wait_for(running, 60) == 0
        finally:
            running.cancel()
            self.probe.close()


async def finals(url: str) -> list[int]:
    """Interfaces by index that have final counters."""
    counters = await asyncio.to_thread(records_of, url, "flowstream.counters")
    return [record.if_index for record in counters if record.final]


@pytest.mark.parametrize("program", ["flow", "counter"])
async def test_one_is_added_and_one_removed_while_traffic_flows(tmp_path, pairs, program):
    (sender, first), (other_sender, second) = pairs
    rig = Rig(f"file:{tmp_path}/recording", program)
    attachment = rig.add(first)
    async with rig.running():
        arrived = await asyncio.to_thread(delivered, sender, first, PACKETS, "-f", FLOWS)
        rig.add(second)
        # Both have traffic when the first one goes.
        flooding = asyncio.ensure_future(
            asyncio.to_thread(flood, sender, "-n", 50 * PACKETS, "-f", FLOWS, "-p", 50 * PACKETS)
        )
        other = asyncio.ensure_future(
            asyncio.to_thread(delivered, other_sender, second, 5 * PACKETS, "-f", FLOWS)
        )
        seen = attachment.counters().seen.packets
        while attachment.counters().seen.packets == seen:  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
        await asyncio.wait_for(rig.agent.remove(attachment.key), 30)
        assert not flooding.done()
        # The sink writes in its own time.
        deadline = time.monotonic() + 30
        while not (found := await finals(rig.url)):
            assert time.monotonic() < deadline
        assert found == [first.index]
        await flooding
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
        await asyncio.wait_for(rig.agent.remove(AttachmentKey(device.index)), 30)
        await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
        rig.add(device)
        after = await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
    (interface,) = await asyncio.to_thread(audited, rig.url)
    assert interface["seen"]["packets"] == interface["flows"]["packets"] == before + after


async def test_packets_that_found_the_table_full_come_along(tmp_path, pairs):
    """A removal empties the ring that all attachments share, too."""
    ((sender, device), _) = pairs
    rig = Rig(f"file:{tmp_path}/recording", "flow", max_flows=16)
    rig.add(device)
    async with rig.running():
        arrived = await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", FLOWS)
        await asyncio.wait_for(rig.agent.remove(AttachmentKey(device.index)), 30)
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
    await asyncio.wait_for(removal, 30)
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
