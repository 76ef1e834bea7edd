"""The encoder that the options select, with the prefixes of a schema registry if one is used."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Protocol

from flowstream.encode import Prefixes, make_encoder
from flowstream.errors import SinkError
from flowstream.host import unprivileged
from flowstream.schemas.topics import RECORD_TYPES
from flowstream.urls import parse_registry

if TYPE_CHECKING:
    from flowstream.accounting.identity import Identity
    from flowstream.encode import Encoder
    from flowstream.host.privileges import User

# https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop:
# a zero octet, the schema's id in 4 octets, and for Protobuf the index of the message (0).
_MAGIC: Final = b"\0"
_FIRST_MESSAGE: Final = {"avro": b"", "protobuf": b"\0"}


class EncodingOptions(Protocol):
    """The options that select an encoder, named as in ``flowstream.config``."""

    @property
    def format(self) -> str:
        """One of ``flowstream.encode.FORMATS``."""

    @property
    def names(self) -> str:
        """Names of the fields in JSON, a key of ``flowstream.encode.PROFILES``."""

    @property
    def community_id(self) -> bool:
        """Whether records carry a Community ID."""

    @property
    def registry(self) -> str | None:
        """URL of the schema registry."""

    @property
    def topic_prefix(self) -> str:
        """Start of the topics' names, and so of the registry's subjects."""


def encoder_of(options: EncodingOptions, identity: Identity, user: User) -> Encoder:
    """Make the encoder that the options select; raises as ``prefixes_of``."""
    return make_encoder(
        options.format,
        identity,
        names=options.names,
        community_id=options.community_id,
        prefixes=prefixes_of(options.registry, options.format, options.topic_prefix, user),
    )


def prefixes_of(
    url: str | None, record_format: str, topic_prefix: str, user: User
) -> Prefixes | None:
    """Register the schemas of all topics at ``url``; return None when ``url`` is None.

    With a registry ``record_format`` is avro or protobuf. The registry is asked by a process
    that has become ``user`` and has no capabilities; blocks at most ``client.TIMEOUT_S``.
    Raises ``UsageError`` for the URL, ``SinkError`` when the registry cannot be used.
    """
    if url is None:
        return None
    from flowstream.registry.client import TIMEOUT_S, RegistryClient  # noqa: PLC0415 - slow

    registry = RegistryClient(parse_registry(url))
    ask = functools.partial(registry.identifiers, record_format, topic_prefix)
    try:
        found = unprivileged.call(user, ask, list[int], TIMEOUT_S)
    except TimeoutError:
        raise SinkError(f"{registry}: no complete answer after {TIMEOUT_S:.0f} s") from None
    end = _FIRST_MESSAGE[record_format]
    return Prefixes(
        {
            record_type: _MAGIC + number.to_bytes(4) + end
            for record_type, number in zip(RECORD_TYPES.values(), found, strict=True)
        }
    )
