"""What a run expects of its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from flowstream.config.run import RunConfig


class Stage(Protocol):
    """A part of a run that goes on until it is told to stop."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set and ``wake`` called."""

    def wake(self) -> None:
        """Let ``run`` see that it has to end."""


class Accompanying(Stage, Protocol):
    """A stage that adds and removes attachments, as the configuration in force says."""

    def configure(self, config: RunConfig) -> None:
        """Follow another configuration."""
