"""Requests of a diagnosis, as aiokafka's types encode them.

Most versions are from before tagged fields. The messages are described in
clients/src/main/resources/common/message of Kafka's source.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from aiokafka.protocol.types import (
    Array,
    Boolean,
    Bytes,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

from flowstream.kafka.peer import PeerError

if TYPE_CHECKING:
    from flowstream.kafka.peer import Peer

_TEXT: Final = String("utf-8")


@dataclass(frozen=True, slots=True)
class Request:
    """A kind of request: its API key, its version, and what is asked and answered."""

    key: int
    version: int
    asked: Schema
    answered: Schema

    async def is_known(self, peer: Peer) -> bool:
        """Whether the broker takes this version; raises as ``Peer.ask`` does."""
        _, ranges = await API_VERSIONS.ask(peer)
        return any(
            key == self.key and low <= self.version <= high for key, low, high in ranges or ()
        )

    async def ask(self, peer: Peer, *values: object) -> tuple[Any, ...]:
        """Return the fields of the peer's answer; raises as ``Peer.ask`` does."""
        answer = await peer.ask(self.key, self.version, self.asked.encode(values))
        try:
            return tuple(self.answered.decode(BytesIO(answer)))
        except (ValueError, struct.error) as err:  # ValueError includes those of UTF-8
            raise PeerError("sends an answer that cannot be read") from err


API_VERSIONS: Final = Request(
    18,
    0,
    Schema(),
    Schema(
        ("error_code", Int16), ("api_keys", Array(("key", Int16), ("min", Int16), ("max", Int16)))
    ),
)
SASL_HANDSHAKE: Final = Request(
    17,
    1,
    Schema(("mechanism", _TEXT)),
    Schema(("error_code", Int16), ("mechanisms", Array(_TEXT))),
)
SASL_AUTHENTICATE: Final = Request(
    36,
    0,
    Schema(("auth_bytes", Bytes)),
    Schema(("error_code", Int16), ("error_message", _TEXT), ("auth_bytes", Bytes)),
)
_BROKERS: Final = Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))
# Without topics, it only tells the brokers.
METADATA: Final = Request(
    3,
    1,
    Schema(("topics", Array(_TEXT))),
    Schema(("brokers", _BROKERS)),
)
# Of these topics, with the operations that are allowed on them (KIP-430).
TOPICS: Final = Request(
    3,
    8,
    Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    ),
    Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("name", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", Array(Int32)),
                        ("isr_nodes", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("topic_authorized_operations", Int32),
            ),
        ),
    ),
)
INIT_PRODUCER_ID: Final = Request(
    22,
    0,
    Schema(("transactional_id", _TEXT), ("transaction_timeout_ms", Int32)),
    Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
    ),
)
_TAGS: Final = ("tags", TaggedFields)
_REPLICAS: Final = CompactArray(
    ("replica_id", Int32),
    ("log_end_offset", Int64),
    ("last_fetch_timestamp", Int64),
    ("last_caught_up_timestamp", Int64),
    _TAGS,
)
# The controllers' replicas, with times of their leader's clock (KIP-836). The first tags
# are those of the header.
QUORUM: Final = Request(
    55,
    1,
    Schema(
        _TAGS,
        (
            "topics",
            CompactArray(
                ("topic_name", CompactString("utf-8")),
                ("partitions", CompactArray(("partition_index", Int32), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    ),
    Schema(
        _TAGS,
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("topic_name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("error_code", Int16),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("current_voters", _REPLICAS),
                        ("observers", _REPLICAS),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    ),
)


async def greet(peer: Peer) -> None:
    """Ask what any broker answers anybody; raises as ``Peer.ask`` does."""
    await API_VERSIONS.ask(peer)
