"""The encoder that the options select, with the prefixes of a schema registry if one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowstream.encode import make_encoder
from flowstream.errors import UsageError

if TYPE_CHECKING:
    from flowstream.encode import Encoder, Identity, Prefixes


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


def encoder_of(options: EncodingOptions, identity: Identity) -> Encoder:
    """Make the encoder that the options select; raises as ``prefixes_of``."""
    return make_encoder(
        options.format,
        identity,
        names=options.names,
        community_id=options.community_id,
        prefixes=prefixes_of(options.registry, options.format, options.topic_prefix),
    )


def prefixes_of(url: str | None, record_format: str, topic_prefix: str) -> Prefixes | None:
    """Register the schemas of all topics at ``url``; return None when ``url`` is None.

    With a registry ``record_format`` is avro or protobuf. Blocks until the registry
    has answered. Raises ``UsageError`` without the extra ``registry``,
    ``SinkError`` when the registry cannot be used.
    """
    if url is None:
        return None
    try:
        from flowstream.registry import client as registry  # noqa: PLC0415 - an optional extra
    except ImportError as err:
        raise UsageError("registry: requires: pip install 'flowstream[registry]'") from err
    return registry.prefixes(registry.connect(url), record_format, topic_prefix)
