"""Refusals that last: what a broker does not accept, however often it is sent.

All other errors pass, or are cured by another producer. The codes are those of
Kafka's Errors.java; aiokafka does not know all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
)

from flowstream.accounting import terms
from flowstream.waiting import Pauses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiokafka.errors import KafkaError

# Seconds: a topic that refuses everything is tried again after the first pause, and
# after longer ones up to the second.
_CLOSED = (1.0, 10.0)


class Division(Enum):
    """Parts in which a refused batch is sent again, to find those that are accepted."""

    NONE = auto()
    RECORDS = auto()
    TIMES = auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why records are refused; with ``closes``, all others of their topic will be too."""

    cause: str
    division: Division = Division.NONE
    closes: bool = False


_TOO_LARGE: Final = Refusal(cause=terms.MESSAGE_TOO_LARGE, division=Division.RECORDS)
_NOT_AUTHORISED: Final = Refusal(cause=terms.NOT_AUTHORISED, closes=True)
_UNSUPPORTED: Final = Refusal(cause=terms.UNSUPPORTED_FORMAT, closes=True)
_UNKNOWN_TOPIC: Final = Refusal(cause=terms.UNKNOWN_TOPIC, closes=True)
_BY_CODE: Final[Mapping[int, Refusal]] = {
    10: _TOO_LARGE,  # MESSAGE_TOO_LARGE
    18: _TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    21: _UNSUPPORTED,  # INVALID_REQUIRED_ACKS
    29: _NOT_AUTHORISED,  # TOPIC_AUTHORIZATION_FAILED
    31: _NOT_AUTHORISED,  # CLUSTER_AUTHORIZATION_FAILED
    32: Refusal(cause=terms.INVALID_TIMESTAMP, division=Division.TIMES),
    35: _UNSUPPORTED,  # UNSUPPORTED_VERSION
    42: _UNSUPPORTED,  # INVALID_REQUEST
    43: _UNSUPPORTED,  # UNSUPPORTED_FOR_MESSAGE_FORMAT
    44: Refusal(cause=terms.POLICY_VIOLATION),
    76: _UNSUPPORTED,  # UNSUPPORTED_COMPRESSION_TYPE
    87: Refusal(cause=terms.INVALID_RECORD, division=Division.RECORDS),
}


def refusal_of(error: BaseException, code: int) -> Refusal | None:
    """Return the refusal that an error is; ``code`` is the broker's last one for the batch."""
    if isinstance(error, IncompatibleBrokerVersion):
        return _UNSUPPORTED
    return _BY_CODE.get(code) if isinstance(error, BrokerResponseError) else None


def refusal_of_topic(error: KafkaError) -> Refusal:
    """Return the refusal for records of a topic that is missing or not shown."""
    not_authorised = isinstance(
        error, TopicAuthorizationFailedError | ClusterAuthorizationFailedError
    )
    return _NOT_AUTHORISED if not_authorised else _UNKNOWN_TOPIC


class ClosedTopics:
    """Topics that refuse everything, with the cause; each is tried again now and then."""

    def __init__(self) -> None:
        self._pauses: dict[str, Pauses] = {}
        self._closed: dict[str, tuple[float, str]] = {}

    def close(self, topic: str, cause: str, now: float) -> None:
        """Close a topic for a while, longer each time until it is opened."""
        if self.cause(topic, now) is None:
            pauses = self._pauses.setdefault(topic, Pauses(*_CLOSED))
            self._closed[topic] = (now + pauses.length(), cause)

    def open(self, topic: str) -> None:
        """Forget the refusals of a topic that has accepted records."""
        self._pauses.pop(topic, None)
        self._closed.pop(topic, None)

    @property
    def causes(self) -> frozenset[str]:
        """Causes of the topics that refused everything and have accepted nothing since."""
        return frozenset(cause for _, cause in self._closed.values())

    def cause(self, topic: str, now: float) -> str | None:
        """Return why the topic is closed; None if it may be tried."""
        until, cause = self._closed.get(topic, (now, ""))
        return cause if now < until else None
