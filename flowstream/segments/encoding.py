"""Encodes messages as record batches v2, compressed or not."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from flowstream import compression as codecs

if TYPE_CHECKING:
    from flowstream.messages import MessageBatch

# Below a broker's default message.max.bytes.
BATCH_BYTES: Final = 512 << 10
_NO_PRODUCER: Final = -1
_BASE_OFFSET: Final = struct.Struct(">q")


def load(compression: str) -> None:
    """Import the encoder of record batches: later its files may be out of reach.

    Raises ``MissingExtraError`` without the library of the compression.
    """
    # Not at the top: it imports all of aiokafka, 80 ms, and the agent attaches first.
    import aiokafka.record.default_records  # noqa: F401, PLC0415

    codecs.load(compression)


def encode(
    batch: MessageBatch, start: int, base_offset: int, compression: str
) -> tuple[bytearray, int]:
    """Return one record batch of the records from ``start`` on, and their number.

    ``compression`` is a key of ``compression.CODECS``.
    """
    from aiokafka.record.default_records import DefaultRecordBatchBuilder  # noqa: PLC0415 - as above

    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codecs.CODECS[compression],
        is_transactional=0,
        producer_id=_NO_PRODUCER,
        producer_epoch=_NO_PRODUCER,
        base_sequence=_NO_PRODUCER,
        batch_size=BATCH_BYTES,
    )
    append = builder.append
    count = 0
    for timestamp, key, value, headers in batch.fields(slice(start, None)):
        if append(count, timestamp, key, value, headers) is None:
            break
        count += 1
    data = builder.build()
    _BASE_OFFSET.pack_into(data, 0, base_offset)
    return data, count
