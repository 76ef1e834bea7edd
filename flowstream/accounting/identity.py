"""Identity of a run, as the counters record needs it."""

from __future__ import annotations

from typing import Protocol


class Identity(Protocol):
    """The values that are the same in every record of a run."""

    @property
    def agent_epoch(self) -> int:
        """Start of the run, Unix ns."""

    @property
    def host_id(self) -> bytes:
        """Identifier of the host, 16 bytes."""

    @property
    def sampler_address(self) -> bytes:
        """The agent's own address, 16 bytes (IPv4 v4-mapped)."""

    @property
    def host(self) -> str:
        """Name of the host."""
