"""The encoder that the options ask for, with the frames of a schema registry that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.encode import make_encoder
from flowstream.errors import UsageError

if TYPE_CHECKING:
    from flowstream.config.pcap import CaptureConfig
    from flowstream.config.run import RunConfig
    from flowstream.encode import Encoder, Frames, Identity


def encoder_of(config: RunConfig | CaptureConfig, identity: Identity) -> Encoder:
    """Make the encoder that the options ask for; as ``frames_of`` where there is a registry."""
    return make_encoder(
        config.format,
        identity,
        names=config.names,
        community_id=config.community_id,
        frames=frames_of(config.registry, config.format, config.topic_prefix),
    )


def frames_of(url: str | None, record_format: str, topic_prefix: str) -> Frames | None:
    """Register the schemas of all topics at ``url``; None when that is None.

    ``record_format`` is avro or protobuf where there is a registry. Blocks for as
    long as the registry takes. Raises ``UsageError`` without the extra
    ``registry``, ``SinkError`` when the registry cannot be used.
    """
    if url is None:
        return None
    try:
        from flowstream.registry import client as registry  # noqa: PLC0415 - an extra that few need
    except ImportError as err:
        raise UsageError("registry: it needs pip install 'flowstream[registry]'") from err
    return registry.frames(registry.connect(url), record_format, topic_prefix)
