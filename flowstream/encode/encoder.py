"""What an encoder is, and the choice of one by the name of its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from flowstream.encode.avro_encoder import AvroEncoder
from flowstream.encode.json_encoder import JsonEncoder
from flowstream.encode.msgpack_encoder import MsgpackEncoder
from flowstream.encode.prefixes import Prefixes
from flowstream.encode.protobuf_encoder import ProtobufEncoder
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


FORMATS: Final = ("json", "msgpack", "protobuf", "avro")
"""Names that ``make_encoder`` knows; the first is the default."""


def make_encoder(
    name: str,
    identity: Identity,
    *,
    names: str = "goflow2",
    community_id: bool = False,
    prefixes: Prefixes | None = None,
) -> Encoder:
    """Return the encoder of the format ``name``, one of ``FORMATS``; else UsageError.

    ``names`` (a key of ``PROFILES``) is for JSON, ``prefixes`` (none: values
    stand alone) for Protobuf and Avro; ``community_id`` adds that field.
    """
    match name:
        case "json":
            return JsonEncoder(identity.host, names=names, community_id=community_id)
        case "msgpack":
            return MsgpackEncoder(community_id=community_id)
        case "protobuf":
            return ProtobufEncoder(prefixes or Prefixes({}), community_id=community_id)
        case "avro":
            return AvroEncoder(prefixes or Prefixes({}), community_id=community_id)
        case _:
            raise UsageError(f"format {name!r} is unknown; known: {', '.join(FORMATS)}")
