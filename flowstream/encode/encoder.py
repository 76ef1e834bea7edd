"""The encoder protocol, and the encoder of a format by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from flowstream.encode.avro_encoder import AvroEncoder
from flowstream.encode.json_encoder import JsonEncoder
from flowstream.encode.msgpack_encoder import MsgpackEncoder
from flowstream.encode.protobuf_encoder import ProtobufEncoder
from flowstream.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.identity import Identity
    from flowstream.encode.prefixes import Prefixes
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
    """Return the encoder of the format ``name``, one of ``FORMATS``.

    ``names`` (a key of ``PROFILES``) is for JSON; ``prefixes`` of a schema registry
    are for Protobuf, where they are optional, and Avro. ``community_id`` adds that
    field. Raises UsageError for an unknown format, for Avro without prefixes and for
    MessagePack with ``community_id``.
    """
    match name:
        case "json":
            return JsonEncoder(identity.host, names=names, community_id=community_id)
        case "msgpack":
            if community_id:
                raise UsageError(
                    "community_id: msgpack has a fixed layout without it; use another format, "
                    "or flowstream.records.community_id(record) in the consumer"
                )
            return MsgpackEncoder()
        case "protobuf":
            return ProtobufEncoder(identity.host, prefixes, community_id=community_id)
        case "avro":
            if prefixes is None:
                raise UsageError("format: avro needs a schema registry")
            return AvroEncoder(identity.host, prefixes, community_id=community_id)
        case _:
            raise UsageError(f"format {name!r} is unknown; known: {', '.join(FORMATS)}")
