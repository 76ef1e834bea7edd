"""An agent in the test's own process, on real devices, with a real recording."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from flowstream.accounting.identity import Identity, epoch_at
from flowstream.accounting.run import Run
from flowstream.agent.lifecycle import Agent
from flowstream.agent.run import PROBES
from flowstream.config.run import load
from flowstream.encode import make_encoder
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target
from flowstream.pipeline.publisher import Publisher
from flowstream.sink import open_sink
from flowstream.streams import Stream
from support.agent import finals_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowstream.host.service_manager import ServiceManager
    from flowstream.pipeline.probe import Attachment
    from support.net import Interface

TOPICS = [f"flowstream.{stream}" for stream in Stream]


class Rig:
    """An agent with a probe and a recording; ``options`` are fields of RunConfig."""

    def __init__(
        self,
        url: str,
        program: str = "flow",
        manager: ServiceManager | None = None,
        **options: object,
    ) -> None:
        config = load({"interfaces": ("unused",), "sink": url, "interval_s": 0.5, **options})
        self.url = url
        run = Run(Identity(epoch_at(time.time_ns()), bytes(16), "host-a", bytes(16)))
        self.probe = PROBES[program](max_flows=config.max_flows)
        self.sink = open_sink(url, run.ledger, partitions=3, record_format="json")
        publisher = Publisher(self.sink, make_encoder("json", run.identity), run, "flowstream")
        self.agent = Agent(config, self.probe, self.sink, publisher, run, manager=manager)
        self.sink.prepare(TOPICS)

    def attach(self, device: Interface) -> Attachment:
        with device.namespace.entered():
            return attach_here(self.probe, Target.named(device.name, Mode.NATIVE))

    def add(self, device: Interface) -> Attachment:
        attachment = self.attach(device)
        self.agent.add(attachment)
        return attachment

    def succeed(self, former: Attachment, device: Interface, sampling: int) -> Attachment:
        """Let a program with another rate take over the link of an attachment."""
        with device.namespace.entered():
            target = Target.named(device.name, former.mode, sampling)
            return attach_here(self.probe, replace(target, link_fd=former.link_fd))

    @contextlib.asynccontextmanager
    async def running(self, status: int = 0) -> AsyncIterator[asyncio.Future[int]]:
        """Run the agent; it must end with this exit status when told to stop, or by itself."""
        running = asyncio.ensure_future(self.agent.run(TOPICS))
        try:
            yield running
            self.agent.stop()
            assert await asyncio.wait_for(asyncio.shield(running), 60) == status
        finally:
            running.cancel()
            self.probe.close()


async def finals(url: str) -> list[int]:
    """Interfaces by index that have final counters."""
    return [each.if_index for each in await asyncio.to_thread(finals_of, url)]
