"""The streams of records, each with a topic of its own."""

from __future__ import annotations

import enum


class Stream(enum.StrEnum):
    """A stream of records; its topic is ``PREFIX.STREAM``."""

    FLOWS = "flows"
    NEW_FLOWS = "new_flows"
    COUNTERS = "counters"
