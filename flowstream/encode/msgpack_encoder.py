"""MessagePack: the bytes that the kernel wrote, cut into values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowstream.records import CountersRecord

_ENCODER: Final = msgspec.msgpack.Encoder()


class MsgpackEncoder:
    """An ``Encoder``: a record's value is its bytes (bpf/flow_record.h), an array."""

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """See ``Encoder``."""
        # A void scalar without fields becomes a bytes object of its own.
        values: list[bytes] = records.view(f"V{records.itemsize}").tolist()
        return values

    def encode_counters(self, record: CountersRecord) -> bytes:
        """See ``Encoder``: an array of more than 15 fields, whose first octet is 0xdc."""
        return _ENCODER.encode(record)
