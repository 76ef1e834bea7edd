"""Texts of a scrape, in Prometheus' text format and in OpenMetrics'."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from flowstream.metrics.collector import families_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.core import Metric as Family

    from flowstream.metrics.observation import Observable, Observation

FRESH_S: Final = 0.5
"""Age up to which a text is given again: more scrapes do not mean more collections."""


class Exposed(NamedTuple):
    """The answer to a scrape, and its type."""

    content_type: str
    text: bytes


class Exposition:
    """Texts of the metrics of a run, collected at most twice a second."""

    def __init__(self, run: Observable) -> None:
        self._run = run
        self._collecting = asyncio.Lock()
        # Of its own: others wait for the kernel's lock of all network devices.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._families: Sequence[Family] = ()
        self._texts: dict[bool, Exposed] = {}
        self._collected = -FRESH_S

    async def exposed(self, accept: str) -> Exposed:
        """Return a text in the format that ``accept``, the header of that name, asks for."""
        in_openmetrics = _accepts_openmetrics(accept)
        async with self._collecting:
            loop = asyncio.get_running_loop()
            if time.monotonic() - self._collected >= FRESH_S:
                self._texts.clear()
                observation = await self._run.observe()
                self._families = await loop.run_in_executor(self._thread, _collect, observation)
                self._collected = time.monotonic()
            if in_openmetrics not in self._texts:
                make = _openmetrics if in_openmetrics else _plain
                self._texts[in_openmetrics] = await loop.run_in_executor(
                    self._thread, make, self._families
                )
            return self._texts[in_openmetrics]

    def close(self) -> None:
        """Let the thread end; harmless twice."""
        self._thread.shutdown()


def _collect(observation: Observation) -> Sequence[Family]:
    own = families_of(observation)
    others = (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR)
    return [*own, *(family for each in others for family in each.collect())]


class _Collected:
    """Families as the encoders of prometheus_client take them."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.collect: Callable[[], Iterator[Family]] = lambda: iter(families)


def _plain(families: Sequence[Family]) -> Exposed:
    return Exposed(CONTENT_TYPE_PLAIN_0_0_4, generate_latest(_Collected(families)))


def _openmetrics(families: Sequence[Family]) -> Exposed:
    return Exposed(
        openmetrics.CONTENT_TYPE_LATEST,
        openmetrics.generate_latest(_Collected(families)),  # type: ignore[no-untyped-call]
    )


def _accepts_openmetrics(accept: str) -> bool:
    """Whether a header Accept names OpenMetrics; its weight is not looked at."""
    kinds = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return "application/openmetrics-text" in kinds
