"""Record batches v2, as Kafka's DefaultRecordBatch.java describes them, and their messages."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from flowstream.compression import unpack
from flowstream.extras import requires
from flowstream.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiokafka.record.default_records import DefaultRecordBatch

    from flowstream.messages import Record

# Base offset, length, partition leader epoch, magic, CRC, attributes, last offset
# delta, first and max timestamp, producer id, producer epoch, base sequence, records.
HEADER: Final = struct.Struct(">qiibIhiqqqhii")
LENGTH_END: Final = 12
"""Octets that the length does not include: the base offset and itself."""
MAGIC: Final = 2
MAGIC_POSITION: Final = 16
_ATTRIBUTES_POSITION: Final = 21
_ATTRIBUTES: Final = struct.Struct(">h")
_CODEC: Final = 0x07
CONTROL: Final = 0x20
"""Attribute bit of a control batch, which has no messages."""
# A batch may have millions of records, each hundreds of octets as a message.
_LIST_MESSAGES: Final = 8192


class MalformedError(ValueError):
    """A record has no sense, or the octets end in it; the records before it have some."""


class Batch:
    """A whole batch; its offsets are ``base_offset`` to ``last_offset``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        fields = HEADER.unpack_from(data)
        self.base_offset: int = fields[0]
        self.last_offset: int = fields[0] + fields[6]
        self._attributes: int = fields[5]
        self.first_timestamp_ms: int = fields[7]
        self.max_timestamp_ms: int = fields[8]

    def is_intact(self) -> bool:
        """Say whether the checksum is right; it does not cover base offset and length."""
        return bool(_record_batch(self._data).validate_crc())

    @property
    def is_compressed(self) -> bool:
        """Whether its records are compressed."""
        return bool(self._attributes & _CODEC)

    @property
    def is_control(self) -> bool:
        """Whether it is a control batch, such as the end of a transaction."""
        return bool(self._attributes & CONTROL)

    def messages(self, topic: str, partition: int) -> Iterator[list[Message]]:
        """Yield the messages in lists of bounded size, none for a control batch.

        Raises ValueError, after everything before it, where a record is malformed
        or the batch cannot be decompressed.
        """
        if self.is_control:
            return
        messages = []
        try:
            for record in self.records():
                messages.append(Message.of(topic, partition, record))
                if len(messages) == _LIST_MESSAGES:
                    yield messages
                    messages = []
        except MalformedError:
            yield messages
            raise
        yield messages

    def records(self) -> Iterator[Record]:
        """Yield the records of aiokafka; ``ValueError`` as ``messages``."""
        from aiokafka.errors import CorruptRecordException  # noqa: PLC0415 - as below

        try:
            yield from _record_batch(self._unpacked())
        except CorruptRecordException as err:
            raise MalformedError(f"damaged: {err}") from err

    def _unpacked(self) -> bytes:
        codec = self._attributes & _CODEC
        if not codec:
            return self._data
        header = bytearray(self._data[: HEADER.size])
        _ATTRIBUTES.pack_into(header, _ATTRIBUTES_POSITION, self._attributes & ~_CODEC)
        return bytes(header) + unpack(codec, self._data[HEADER.size :])


def _record_batch(data: bytes) -> DefaultRecordBatch:
    # Not at the top: it imports all of aiokafka, and the agent attaches first.
    with requires("kafka", "a recording"):
        from aiokafka.record.default_records import DefaultRecordBatch  # noqa: PLC0415

        return DefaultRecordBatch(data)
