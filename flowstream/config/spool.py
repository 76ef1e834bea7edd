"""Options of the spool, in which records wait for a Kafka cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final

from flowstream.config.options import described, options_of
from flowstream.config.publish import PublishConfig
from flowstream.config.units import AGE_FORMS, AGE_PATTERN, SIZE_FORMS, SIZE_PATTERN
from flowstream.errors import UsageError
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping


class SpoolConfig(PublishConfig, frozen=True, kw_only=True):
    """Where records wait that the cluster does not take, and how many."""

    spool: (
        Annotated[
            str,
            described(
                "DIR",
                "a directory for records that the Kafka cluster does not take; by default "
                "$STATE_DIRECTORY/spool, which systemd sets, or none",
                title="a directory",
                pattern=r"\A[^\0]{1,4096}\Z",
            ),
        ]
        | None
    ) = None
    spool_size: Annotated[
        str,
        described(
            "SIZE",
            "limit of the spool, whose oldest segments are dropped",
            title=SIZE_FORMS,
            pattern=SIZE_PATTERN,
        ),
    ] = "1GiB"
    spool_max_age: Annotated[
        str,
        described(
            "TIME",
            "age at which segments of the spool are dropped",
            title=AGE_FORMS,
            pattern=AGE_PATTERN,
        ),
    ] = "unlimited"
    spool_rate: (
        Annotated[
            int,
            described(
                "N",
                "records per second that leave the spool once the cluster takes them; "
                "by default no limit",
                ge=1,
                le=100_000_000,
            ),
        ]
        | None
    ) = None


SPOOL_OPTIONS: Final = {
    field: option for field, option in options_of(SpoolConfig).items() if field.startswith("spool")
}
"""Options of the spool by field."""


def with_spool(values: Mapping[str, Any], sink: str) -> dict[str, Any]:
    """Return the fields with the spool that systemd's state directory makes the default.

    Raises ``UsageError`` for options that would be ignored: without a Kafka sink all of
    them, without a spool its limits.
    """
    given = [option.name for field, option in SPOOL_OPTIONS.items() if field in values]
    if not isinstance(parse_url(sink), KafkaUrl):
        if given:
            raise UsageError(
                f"{given[0]}: a spool is for a Kafka sink, and the sink is {sink}; "
                "leave it out or use kafka://HOST:PORT"
            )
        return dict(values)
    # systemd.exec(5): several are separated by colons.
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    spool = values.get("spool") or (f"{state}/spool" if state else None)
    if spool is None and given:
        raise UsageError(f"{given[0]}: there is no spool; give --spool DIR too, or leave it out")
    return {**values, "spool": spool}
