"""Settings of clients and topics; imports no Kafka library."""

from __future__ import annotations

from typing import Final

KEEP_FOREVER: Final = {"retention.ms": "-1"}
"""Topic settings for messages from the past: a broker deletes messages by their own times."""
