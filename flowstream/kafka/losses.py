"""Logs the records that a Kafka sink has given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from flowstream.kafka.remedies import REMEDIES

if TYPE_CHECKING:
    from flowstream.kafka.lanes import Lanes

_INTERVAL: Final = 10.0

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
                why = {"reason": self._lanes.reasons.get(cause), "remedy": REMEDIES.get(cause)}
                log.warning(
                    event, cause=cause, records=records, **{k: v for k, v in why.items() if v}
                )
                written = True
            counter.clear()
        return written
