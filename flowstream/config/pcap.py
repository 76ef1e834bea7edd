"""Options of ``flowstream pcap``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - msgspec evaluates the annotations

from flowstream.config.publish import PublishConfig


class CaptureConfig(PublishConfig, frozen=True, kw_only=True):
    """One run over captures: the files, in order, and the options of publishing."""

    files: tuple[Path, ...]
