"""The way from records to the outcomes of a sink, as in the agent."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from bench.encoders import prefixes
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.run import Run
from flowstream.encode import make_encoder
from flowstream.pipeline.publisher import Publisher, RecordBatch
from flowstream.pipeline.readers import READ_RECORDS
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.identity import Identity
    from flowstream.messages import MessageBatch
    from flowstream.sink import Sink

DEADLINE_S: Final = 60.0


class Lane:
    """A started sink with a publisher; ``open_with`` makes the sink for a ledger.

    A context manager: at the end everything must have been acknowledged, else
    something else was measured.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        open_with: Callable[[Ledger], Sink],
        record_format: str,
        identity: Identity,
        *,
        prefix: str,
    ) -> None:
        self.format = record_format
        self.prefix = prefix
        self.ledger = Ledger()
        self.sink = open_with(self.ledger)
        self._identity = identity
        self._runner = runner
        self._topics = [f"{prefix}.{stream}" for stream in Stream]

    def start(self) -> None:
        """Start the sink."""
        self.sink.prepare(self._topics)
        self._runner.run(self.sink.start(self._topics))

    def close(self) -> None:
        """End the sink."""
        self._runner.run(self.sink.close(5))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None:
            self._check()

    def send(self, batches: list[MessageBatch]) -> int:
        """Send encoded batches and wait for their outcomes."""
        return self._runner.run(self._send(batches))

    async def _send(self, batches: list[MessageBatch]) -> int:
        for batch in batches:
            await self.sink.send(batch)
        await self.sink.flush(DEADLINE_S)
        return sum(map(len, batches))

    def publish(self, records: NDArray[np.void], at_once: int | None = None) -> int:
        """Publish records as they left the kernel and wait for the outcomes.

        With ``at_once``, so many in turn, each lot after the outcomes of the one before it.
        """
        size = at_once or len(records)
        for start in range(0, len(records), size):
            self._runner.run(self._publish(records[start : start + size]))
        return len(records)

    async def _publish(self, records: NDArray[np.void]) -> None:
        encoder = make_encoder(self.format, self._identity, prefixes=prefixes(self.format))
        publisher = Publisher(self.sink, encoder, Run(self._identity, self.ledger), self.prefix)
        faults: list[Exception] = []
        running = asyncio.ensure_future(publisher.run(faults.append))
        for start in range(0, len(records), READ_RECORDS):
            await publisher.put(RecordBatch(Stream.FLOWS, records[start : start + READ_RECORDS]))
        await publisher.finish()
        await running
        await self.sink.flush(DEADLINE_S)
        if faults:
            raise faults[0]

    def _check(self) -> None:
        counts = Counter[str]()
        for index in self._identity.interfaces:
            account = self.ledger.account(AttachmentKey(index)).flows
            counts.update(acknowledged=account.acknowledged, failed=account.failed)
        if counts["failed"] or not counts["acknowledged"]:
            raise RuntimeError(f"{self.prefix}: {counts['failed']} records failed")
