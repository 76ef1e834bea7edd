"""Options of the agent itself: its identity, what it leaves, its limits, periods and logs."""

from __future__ import annotations

import ipaddress
import reprlib
from typing import Annotated, Literal

from flowstream.config.options import described
from flowstream.config.spool import SpoolConfig
from flowstream.config.units import AGE_FORMS, AGE_PATTERN, SIZE_FORMS, SIZE_PATTERN
from flowstream.errors import UsageError
from flowstream.urls import LISTEN_FORMS, parse_listen


class AgentConfig(SpoolConfig, frozen=True, kw_only=True):
    """An agent, whatever it observes. Names ending in ``_s`` are seconds.

    The constructor checks that fields agree with each other (``UsageError``).
    """

    agent_address: (
        Annotated[
            str,
            described(
                "ADDRESS",
                "sampler_address of the records; by default the source address of the "
                "default route",
                title="an IPv4 or IPv6 address",
            ),
        ]
        | None
    ) = None
    pin: (
        Annotated[
            str,
            described(
                "DIR",
                "a directory below /sys/fs/bpf in which programs and their counts stay when the "
                "agent ends, for the next one to go on without a gap",
                title="a directory such as /sys/fs/bpf/flowstream",
                pattern=r"\A[^\0]{1,4096}\Z",
            ),
        ]
        | None
    ) = None
    max_records: Annotated[
        int,
        described(
            "N",
            "limit per second, averaged over an interval: flow records beyond it are "
            "aggregated, announcements beyond it are dropped and counted",
            ge=1,
            le=100_000_000,
        ),
    ] = 100_000
    recording_size: Annotated[
        str,
        described(
            "SIZE",
            "limit of a recording (sink file:), whose oldest segments are deleted",
            title=SIZE_FORMS,
            pattern=SIZE_PATTERN,
        ),
    ] = "1GiB"
    recording_age: Annotated[
        str,
        described(
            "TIME",
            "age at which segments of a recording are deleted",
            title=AGE_FORMS,
            pattern=AGE_PATTERN,
        ),
    ] = "unlimited"
    counters_period_s: Annotated[
        float,
        described("SECONDS", "time between two counters records", ge=0.1, le=3600),
    ] = 1.0
    metrics: (
        Annotated[
            str,
            described(
                "ADDRESS",
                "address at which Prometheus reads /metrics, beside /healthz and /readyz; by "
                "default none",
                title=LISTEN_FORMS,
                pattern=r"\A[^\0]{1,4096}\Z",
            ),
        ]
        | None
    ) = None
    duration_s: (
        Annotated[
            float,
            described("SECONDS", "stop after this time", ge=0.1, le=1_000_000_000),
        ]
        | None
    ) = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        described("LEVEL", "lowest level of messages to log"),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        described("FORMAT", "auto is console on a terminal and JSON lines elsewhere"),
    ] = "auto"
    shutdown_timeout_s: Annotated[
        float,
        described("SECONDS", "time limit for publishing everything at the end", ge=0.1, le=3600),
    ] = 10.0

    def __post_init__(self) -> None:
        if self.agent_address is not None:
            _check_address(self.agent_address)
        if self.metrics is not None:
            _check_listen(self.metrics)
        super().__post_init__()


def _check_listen(text: str) -> None:
    try:
        parse_listen(text)
    except UsageError as err:
        raise UsageError(f"metrics: {err}") from err


def _check_address(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as err:
        raise UsageError(
            f"agent-address: {reprlib.repr(text)} is not an IPv4 or IPv6 address"
        ) from err
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_unspecified or mapped.is_multicast:
        raise UsageError(
            f"agent-address: {text} is not the address of a host; name one of its addresses, or "
            "leave it out"
        )
