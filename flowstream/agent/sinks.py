"""The sink of a run, with the spool that a Kafka sink may have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog

from flowstream.accounting.snapshot import SpoolState
from flowstream.config import units
from flowstream.kernel import clock
from flowstream.pipeline.publisher import Means
from flowstream.segments.retention import Retention
from flowstream.sink import open_sink
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from flowstream.accounting.ledgers import Ledgers
    from flowstream.accounting.outcomes import Outcomes
    from flowstream.accounting.run import Run
    from flowstream.config.run import RunConfig
    from flowstream.encode import Encoder
    from flowstream.host.privileges import User
    from flowstream.kafka.sink import KafkaSink
    from flowstream.messages import MessageBatch
    from flowstream.sink import Sink

log = structlog.get_logger()


def means_of(config: RunConfig, run: Run, ledgers: Ledgers, encoder: Encoder, user: User) -> Means:
    """Return the means of a run with its sink, neither prepared nor started.

    ``ledgers`` has the run's and those of the runs that it closes.
    """
    if config.spool is not None:
        return _with_spool(config, config.spool, run, ledgers, encoder, user)
    if isinstance(parse_url(config.sink), KafkaUrl):
        log.info("no_spool", remedy="--spool DIR keeps records on disk while there is no broker")
    return Means(
        _sink(config, ledgers, user), lambda *_: None, SpoolState, lambda _: None, encoder
    )


def _with_spool(
    config: RunConfig,
    directory: str,
    run: Run,
    ledgers: Ledgers,
    encoder: Encoder,
    user: User,
) -> Means:
    from flowstream.segments.spool import Spool  # noqa: PLC0415 - only with a spool
    from flowstream.spool.books import Books  # noqa: PLC0415 - as above
    from flowstream.spool.sink import SpoolingSink  # noqa: PLC0415 - as above

    def make_kafka(outcomes: Outcomes[MessageBatch]) -> KafkaSink:
        # A spool is configured for no other sink.
        return cast("KafkaSink", _sink(config, outcomes, user))

    sink = SpoolingSink(
        make_kafka,
        Spool(
            Path(directory),
            retention=_retention(config.spool_size, config.spool_max_age),
            owner=_owner(user),
        ),
        Books(ledgers, run.identity.agent_epoch, continued=config.pin is not None),
        partitions=config.partitions,
        encoder=encoder,
        clock=clock.now,
        rate=config.spool_rate,
    )
    return Means(sink, sink.note_counters, lambda: sink.spool_state, sink.close_run, encoder)


def _sink(config: RunConfig, outcomes: Outcomes[MessageBatch], user: User) -> Sink:
    return open_sink(
        config.sink,
        outcomes,
        partitions=config.partitions,
        record_format=config.format,
        owner=_owner(user),
        retention=_retention(config.recording_size, config.recording_age),
        client=config.kafka,
    )


def _owner(user: User) -> User | None:
    return user if os.geteuid() == 0 else None


def _retention(size: str, age: str) -> Retention:
    age_s = units.seconds(age)
    return Retention(size=units.octets(size), age_ms=age_s and age_s * 1000)
