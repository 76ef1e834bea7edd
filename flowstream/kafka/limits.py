"""The bounds of the Kafka sink."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a Kafka sink; sizes in bytes, times in seconds."""

    in_flight_bytes: int = 64 << 20
    # Below the broker's default message.max.bytes, 1 MiB.
    batch_bytes: int = 512 << 10
    # From being accepted to being given up; a request that is under way by then
    # gets its time.
    delivery_timeout: float = 30.0
    # Without any answer: the producer is made anew, from the addresses given.
    stuck_timeout: float = 20.0
    # Shorter, so that an unanswered request is first repeated by the same
    # producer, which makes no duplicate.
    request_timeout: float = 10.0
    # For the broker to be there at the start, and for each later attempt.
    connect_timeout: float = 10.0
    # For the healthy partitions of a producer that is about to be given up.
    grace: float = 2.0
    # Between looks at the number of partitions.
    metadata_age: float = 60.0
    # Between attempts: the first pause and the longest.
    backoff: tuple[float, float] = (0.1, 2.0)
