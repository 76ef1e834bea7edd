"""Settings of clients and topics; imports no Kafka library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEEP_FOREVER: Final = {"retention.ms": "-1"}
"""Topic settings for messages from the past: a broker deletes messages by their own times."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Settings that all producers, consumers and admin clients of a cluster share.

    ``addresses`` are HOST:PORT of the brokers to connect to first;
    ``request_timeout`` is in seconds.
    """

    addresses: tuple[str, ...]
    client_id: str = "flowstream"
    request_timeout: float = 10.0

    @property
    def url(self) -> str:
        """The cluster's URL, for messages."""
        return f"kafka://{','.join(self.addresses)}"
