"""The streams of records, each with a topic of its own."""

from __future__ import annotations

import enum
from typing import Final

PREFIX: Final = r"\A[a-zA-Z0-9._-]{1,239}\Z"
"""Pattern of prefixes: Kafka permits 249 of these characters; there is room for ".new_flows"."""


class Stream(enum.StrEnum):
    """A stream of records; its topic is ``PREFIX.STREAM``."""

    FLOWS = "flows"
    NEW_FLOWS = "new_flows"
    COUNTERS = "counters"


FLOW_STREAMS: Final = (Stream.FLOWS, Stream.NEW_FLOWS)
"""The streams whose records the counters count: of flows, and of their announcements."""
