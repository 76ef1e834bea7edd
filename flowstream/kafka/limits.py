"""The bounds of the Kafka sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from flowstream.kafka.settings import ClientSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a Kafka sink; sizes in bytes, times in seconds."""

    in_flight_bytes: int = 64 << 20
    # Below the broker's default message.max.bytes, 1 MiB.
    batch_bytes: int = 512 << 10
    # From acceptance until a record is given up; a request in progress by then still
    # gets ``request_timeout``.
    delivery_timeout: float = 30.0
    # Without any answer: a new producer connects, by the configured addresses.
    stuck_timeout: float = 20.0
    # Shorter than ``stuck_timeout``, so that the same producer repeats an unanswered
    # request first, which causes no duplicate.
    request_timeout: float = 10.0
    # Without any answer: the cluster is said not to acknowledge.
    answer_timeout: float = 5.0
    # For reaching the broker at the start, and for each later attempt.
    connect_timeout: float = 10.0
    # Without an answer, for the healthy partitions of a producer that is given up.
    grace: float = 2.0
    # Between updates of the number of partitions.
    metadata_age: float = 60.0
    # Between attempts: the first pause and the longest, before jitter shortens them.
    backoff: tuple[float, float] = (0.1, 2.0)

    @classmethod
    def of(cls, settings: ClientSettings) -> Self:
        """Return the bounds that these settings ask for."""
        default = cls()
        return cls(
            batch_bytes=settings.batch_size or default.batch_bytes,
            delivery_timeout=settings.delivery_timeout or default.delivery_timeout,
            stuck_timeout=max(default.stuck_timeout, 2 * settings.request_timeout),
            request_timeout=settings.request_timeout,
            metadata_age=settings.metadata_max_age or default.metadata_age,
        )
