"""Logs the records that a Kafka sink has given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from flowstream.accounting import terms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kafka.lanes import Lanes

_INTERVAL: Final = 10.0
_REMEDIES: Final[Mapping[str, str]] = {
    terms.INVALID_TIMESTAMP: "set the clocks of this host and of the brokers, or raise the "
    "topics' message.timestamp.after.max.ms and message.timestamp.before.max.ms",
    terms.MESSAGE_TOO_LARGE: "raise the topics' max.message.bytes",
    terms.INVALID_RECORD: "see the brokers' logs and the topics' settings, such as cleanup.policy",
    terms.NOT_AUTHORISED: "give this client the right to write the topics, and to create them "
    "where they are missing",
    terms.POLICY_VIOLATION: "adapt the cluster's policy, or compression.type and the topics",
    terms.UNKNOWN_TOPIC: "create the topic by hand",
    terms.UNSUPPORTED_FORMAT: "set compression.type to one that the brokers support, or update "
    "the brokers",
}

log = structlog.get_logger(__name__)


class LossLog:
    """Sums up what the lanes have given up, at most every 10 s."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._logged = 0.0

    def write_in_time(self, now: float) -> None:
        """Log the losses, unless lines were logged less than 10 s before ``now`` (loop time)."""
        if now - self._logged > _INTERVAL and self.write():
            self._logged = now

    def write(self) -> bool:
        """Log a line per cause; return whether there was any."""
        written = False
        for event, counter in (
            ("kafka_records_failed", self._lanes.failed),
            ("kafka_records_in_doubt", self._lanes.in_doubt),
        ):
            for cause, records in counter.items():
                why = {"reason": self._lanes.reasons.get(cause), "remedy": _REMEDIES.get(cause)}
                log.warning(
                    event, cause=cause, records=records, **{k: v for k, v in why.items() if v}
                )
                written = True
            counter.clear()
        return written
