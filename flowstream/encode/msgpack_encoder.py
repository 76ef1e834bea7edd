"""MessagePack: the bytes that the kernel wrote, cut into values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from flowstream.encode.community_id import LENGTH, community_ids
from flowstream.encode.value_builder import rows_bytes
from flowstream.records import FlowRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.records import CountersRecord

_ENCODER: Final = msgspec.msgpack.Encoder()
# array 16 with the number of fields; a text of at most 31 octets.
_HEAD: Final = np.frombuffer(b"\xdc" + len(FlowRecord.__struct_fields__).to_bytes(2), np.uint8)
_TAG_COMMUNITY_ID: Final = np.array([0xA0 | LENGTH], np.uint8)


class MsgpackEncoder:
    """An ``Encoder``: a record's value is its bytes (bpf/flow_record.h), as an array.

    With ``community_id`` the array has that field more.
    """

    def __init__(self, *, community_id: bool = False) -> None:
        self._community_id = community_id

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        # A void scalar without fields becomes a bytes object of its own.
        values: list[bytes] = records.view(f"V{records.itemsize}").tolist()
        return _with_community_id(records) if self._community_id and values else values

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``: an array of more than 15 fields, so its first byte is 0xdc."""
        return _ENCODER.encode(record)


def _with_community_id(records: NDArray[np.void]) -> list[bytes]:
    count = len(records)
    octets = np.ascontiguousarray(records).view(np.uint8).reshape(count, -1)
    parts = (
        np.broadcast_to(_HEAD, (count, len(_HEAD))),
        octets[:, len(_HEAD) :],
        np.broadcast_to(_TAG_COMMUNITY_ID, (count, 1)),
        community_ids(records),
    )
    return rows_bytes(np.concatenate(parts, axis=1))
