"""Reads the captures of a run one after another."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from flowstream.pcap.capture_run import CaptureRun, Clock
from flowstream.pcap.reader import CaptureFile
from flowstream.pcap.signals import stopped_by_signals
from flowstream.progress import progress_bars

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.config.pcap import CaptureConfig
    from flowstream.kernel.packets import PacketFeed
    from flowstream.pcap.identity import Captures
    from flowstream.pcap.inputs import Input
    from flowstream.pipeline.publisher import Publisher


class Reading:
    """All captures of a run; ``runs`` are those read so far, the last one maybe in part."""

    def __init__(
        self,
        config: CaptureConfig,
        captures: Captures,
        feed: PacketFeed,
        publisher: Publisher,
        warn: Callable[[str], object],
    ) -> None:
        self._config, self._captures, self._feed = config, captures, feed
        self._publisher, self._warn = publisher, warn
        self.clock = Clock(captures.identity.agent_epoch)
        self.runs: list[CaptureRun] = []

    async def run(self) -> None:
        """Read up to the first SourceError; what was read before it goes to the publisher."""
        with stopped_by_signals() as check, progress_bars(octets=True) as progress:
            for index, given in enumerate(self._captures.inputs, 1):
                size = self._captures.versions[index - 1].size
                bar = progress.add_task(given.path.name, total=size)
                update = functools.partial(progress.update, bar)
                await self._read(index, given, update, check)

    async def _read(
        self, index: int, given: Input, update: Callable[..., None], check: Callable[[], None]
    ) -> None:
        name = self._captures.identity.interfaces[index]
        version = self._captures.versions[index - 1]
        with CaptureFile(given.path, version, given.descriptor) as file:
            run = CaptureRun(self._config, self._feed, name, index, self.clock)
            self.runs.append(run)

            def progressed() -> None:
                update(completed=file.position)
                check()

            try:
                await run.run(file.packets(), self._publisher, progressed)
                file.require_unchanged()
            finally:
                for line in file.warnings():
                    self._warn(line)
