"""Identity of a run: the values that are the same in all of its records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowstream.records.text import utf8_text

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH_STEP_NS: Final = 1_024
"""A multiple of it stays exact as a double until the year 2255 (53 + 10 bits of ns)."""
_ID_BYTES: Final = 16


def epoch_at(unix_ns: int) -> int:
    """Return the ``agent_epoch`` of a run that begins then: rounded down to ``EPOCH_STEP_NS``."""
    return unix_ns // EPOCH_STEP_NS * EPOCH_STEP_NS


@dataclass(frozen=True, slots=True)
class Identity:
    """Values that are the same in every record of a run.

    ``agent_epoch`` in Unix ns, a multiple of ``EPOCH_STEP_NS``; ``host_id`` 16 bytes;
    ``host`` the host's name; ``sampler_address`` the agent's own address, 16 bytes
    (IPv4 v4-mapped, RFC 4291); ``interfaces`` names by interface index. The mapping
    may be the caller's live one: an interface that is renamed gets its new name from
    the next batch on. Raises ValueError for a wrong length or epoch.
    """

    agent_epoch: int
    host_id: bytes
    host: str
    sampler_address: bytes
    interfaces: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", utf8_text(self.host))
        for name in ("host_id", "sampler_address"):
            if len(getattr(self, name)) != _ID_BYTES:
                raise ValueError(f"{name} has {len(getattr(self, name))} bytes, not {_ID_BYTES}")
        if self.agent_epoch % EPOCH_STEP_NS:
            raise ValueError(
                f"agent_epoch {self.agent_epoch} is not a multiple of {EPOCH_STEP_NS}"
            )
