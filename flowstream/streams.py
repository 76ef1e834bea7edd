"""The streams of records, each with a topic of its own."""

from __future__ import annotations

import enum


class Stream(enum.StrEnum):
    """What a record belongs to; the topic is ``PREFIX.STREAM``."""

    FLOWS = "flows"
    NEW_FLOWS = "new_flows"
    COUNTERS = "counters"
