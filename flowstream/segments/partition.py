"""Reads one partition of a recording: its segments in order, and later additions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.errors import MissingExtraError, SourceError
from flowstream.segments.reader import SegmentReader, offsets, segments_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flowstream.messages import Message


class PartitionReader:
    """The messages of one partition, from its first segment on.

    ``torn`` and ``offsets`` tell what the last ``read`` could not deliver.
    """

    def __init__(self, recording: Path, topic: str, partition: int) -> None:
        self._directory = recording / f"{topic}-{partition}"
        self._topic, self._partition = topic, partition
        self._place = f"{self._directory}: topic {topic}, partition {partition}"
        self._segment: SegmentReader | None = None
        self._offsets: Offsets | None = None
        self._torn: str | None = None

    @property
    def missing(self) -> str | None:
        """Warning about offsets that are missing so far."""
        if self._offsets is None or not self._offsets.missing:
            return None
        return f"{self._place}: {self._offsets.warning()}"

    @property
    def torn(self) -> str | None:
        """Warning about a last batch that is cut short: torn, or still being written."""
        return self._torn

    def read(self, since_ms: int | None = None) -> Iterator[list[Message]]:
        """Yield what was added since the last call, in order; lists may be empty.

        Batches whose messages are all older than ``since_ms`` are left out.

        Raises ``SourceError``, after everything before it, where it cannot go on.
        """
        try:
            # Listed before reading: a segment with a successor is complete by then.
            segments = segments_of(self._directory)
        except OSError as err:
            raise SourceError(f"{self._place}: {err.strerror}") from err
        self._torn = None
        for path in segments:
            reader = self._segment
            if reader is not None and path < reader.path:
                continue
            if reader is None or path != reader.path:
                reader = self._segment = SegmentReader(path, gaps=True)
            try:
                yield from self._read(reader, since_ms, is_last=path == segments[-1])
            except SourceError as err:
                if not isinstance(err.__cause__, FileNotFoundError) or path == segments[-1]:
                    raise
                # Retention has deleted it since: the next one tells what is missing.

    def _read(
        self, reader: SegmentReader, since_ms: int | None, *, is_last: bool
    ) -> Iterator[list[Message]]:
        if self._offsets is None:
            # Whatever was deleted before the first segment is not missing.
            self._offsets = Offsets(reader.next_offset)
        expected = self._offsets
        try:
            expected.reach(reader.next_offset)
            for batch in reader:
                if since_ms is not None and batch.max_timestamp_ms < since_ms:
                    expected.reach(batch.base_offset)
                    expected.reach(batch.last_offset + 1, lost=False)
                    continue
                for messages in batch.messages(self._topic, self._partition):
                    expected.take(messages)
                    yield messages
                expected.reach(batch.last_offset + 1, lost=not batch.is_control)
        except ValueError as err:
            raise SourceError(f"{self._place}, offset {expected.next}: {err}") from err
        except MissingExtraError as err:
            raise err.at(f"{self._place}, offset {expected.next}") from err.__cause__
        if reader.torn:
            self._torn = (
                f"{self._place}, offset {reader.next_offset}: "
                f"the last batch is cut short at byte {reader.position} of {reader.path.name}"
            )
            if not is_last:
                raise SourceError(f"{self._torn}, and more segments follow")


class Offsets:
    """Offsets of one partition: the next one, and how many were missing."""

    def __init__(self, first: int) -> None:
        self.next = first
        self.missing = 0
        self._first_missing = ""

    def take(self, messages: Sequence[Message]) -> None:
        """Note messages that were read; ValueError where an offset goes back."""
        if not messages:
            return
        if (
            messages[0].offset == self.next
            and messages[-1].offset == self.next + len(messages) - 1
        ):
            self.next += len(messages)
            return
        for message in messages:
            self.reach(message.offset)
            self.next += 1

    def reach(self, offset: int, *, lost: bool = True) -> None:
        """Go on to ``offset``; the offsets in between are missing, if ``lost``."""
        if offset < self.next:
            raise ValueError(f"damaged: offset {offset} comes after it")
        if offset > self.next and lost:
            self._first_missing = self._first_missing or offsets(self.next, offset)
            self.missing += offset - self.next
        self.next = offset

    def warning(self) -> str:
        """Say which offsets are missing."""
        return f"{self._first_missing} missing, {self.missing:,} in all: compacted, or cut out"
