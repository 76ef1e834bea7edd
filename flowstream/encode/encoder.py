"""What an encoder is, and the choice of one by the name of its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from flowstream.encode.json_encoder import JsonEncoder
from flowstream.encode.msgpack_encoder import MsgpackEncoder
from flowstream.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowstream.encode.identity import Identity
    from flowstream.records import CountersRecord


class Encoder(Protocol):
    """Records in, values out. Not safe for use from several threads at once."""

    def encode(self, records: NDArray[np.void]) -> list[bytes]:
        """Values of stamped records of shape (n,) and dtype FLOW_RECORD, in their order.

        The values own their memory; ``records`` is read only. Encoding cannot
        fail for a single record.
        """
        ...

    def encode_counters(self, record: CountersRecord) -> bytes:
        """Value of one record of the counters topic."""
        ...


FORMATS: Final = ("json", "msgpack")
"""Names that ``make_encoder`` knows; the first is the default."""


def make_encoder(name: str, identity: Identity) -> Encoder:
    """Return the encoder of the format ``name``, one of ``FORMATS``; else UsageError."""
    match name:
        case "json":
            return JsonEncoder(identity.host)
        case "msgpack":
            return MsgpackEncoder()
        case _:
            raise UsageError(f"format {name!r} is unknown; known: {', '.join(FORMATS)}")
