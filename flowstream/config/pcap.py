"""What a run over captures is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """Files and the options that it shares with ``flowstream run`` (flowstream.config.run)."""

    files: tuple[Path, ...]
    sink: str
    format: str
    names: str
    community_id: bool
    registry: str | None
    interval_s: float
    max_flows: int
    sampling: int
    partitions: int
    topic_prefix: str
