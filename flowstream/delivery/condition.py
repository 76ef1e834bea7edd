"""The state of a sink, as far as it knows."""

from __future__ import annotations

from enum import StrEnum


class Condition(StrEnum):
    """What becomes of records that a sink accepts now."""

    PUBLISHING = "publishing"
    """They are published."""
    SPOOLING = "spooling"
    """The cluster does not take them: they are kept on disk, to be published later."""
    WAITING = "waiting"
    """The cluster does not take them: they wait in memory, for a limited time."""
    REFUSED = "refused"
    """The cluster answers, and refuses those of a topic: they are lost at once."""
    FAILED = "failed"
    """Nothing can be published any more, or what is published may not be durable."""
