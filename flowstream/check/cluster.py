"""Findings about a Kafka cluster: the steps of a client, then what the topics take."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.errors import SinkError
from flowstream.kafka import requests
from flowstream.kafka.admin import create_on_trial, partition_counts
from flowstream.kafka.cluster_clock import ahead_ms
from flowstream.kafka.diagnosis import advertised
from flowstream.kafka.limits import Limits
from flowstream.kafka.looks import Step, Walk
from flowstream.kafka.peer import PeerError
from flowstream.kafka.permissions import TopicState, refuses_idempotence, topic_states
from flowstream.kafka.topic_settings import (
    deletions,
    refusals,
    refused_times,
    summary,
    topic_settings,
)
from flowstream.kafka.walk import logged_in, walk
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from flowstream.kafka.settings import ClientSettings
    from flowstream.kafka.topic_settings import Values

TIMEOUT_S: Final = 5.0
"""For each question to the cluster."""

_MOST_BROKERS: Final = 10
# Certificates are renewed weeks before their end.
_LAST_DAYS: Final = 14
# Far more than NTP leaves.
_WRONG_CLOCK_MS: Final = 10_000


async def check_cluster(settings: ClientSettings, topics: Sequence[str]) -> AsyncIterator[Finding]:
    """Walk a client's steps at each address; then look at brokers, rights and topics."""
    walks = await asyncio.gather(*(walk(settings, each) for each in settings.addresses))
    for each in walks:
        for finding in _steps(settings, each):
            yield finding
    usable = [each for each in walks if each.fault is None]
    if not usable:
        return
    async for finding in _brokers(settings, usable[0]):
        yield finding
    try:
        async with asyncio.timeout(TIMEOUT_S):
            error, clock, states = await _answers(settings, usable[0].address, topics)
        yield _idempotence(error)
        yield _clock(clock)
        async for finding in _topics(settings, states, clock):
            yield finding
    except (OSError, PeerError, SinkError) as err:  # OSError includes TimeoutError
        yield Finding(Status.FAIL, "topics", str(err) or "no answer in time", "see the brokers")


def _steps(settings: ClientSettings, walked: Walk) -> Iterator[Finding]:
    sasl = settings.sasl
    in_clear = sasl and not settings.tls and not sasl.mechanism.startswith("SCRAM")
    for look in walked.looks:
        result, subject = look.result, f"{look.step} {walked.address}"
        if not isinstance(result, str):
            yield Finding(Status.FAIL, subject, result.text, result.remedy)
        elif look.step is Step.TLS and (walked.days_left or 0) < _LAST_DAYS:
            yield Finding(Status.WARN, subject, result, "renew the broker's certificate")
        elif look.step is Step.SASL and in_clear:
            text = f"{result}, which sends the credentials in clear"
            yield Finding(Status.WARN, subject, text, "set security.protocol=SASL_SSL")
        else:
            yield Finding(Status.OK, subject, result)


async def _brokers(settings: ClientSettings, walked: Walk) -> AsyncIterator[Finding]:
    """Look at the addresses that clients connect to in the end."""
    remedy = "correct advertised.listeners, or make this address reachable"
    for each in await advertised(settings, walked, _MOST_BROKERS):
        subject = f"broker {each.address}"
        if each.fault:
            yield Finding(Status.FAIL, subject, each.fault.text, remedy)
        else:
            yield Finding(Status.OK, subject, "advertised, and answers")
    if len(walked.brokers) > _MOST_BROKERS:
        left = counted(len(walked.brokers) - _MOST_BROKERS, "further broker")
        yield Finding(Status.OK, "brokers", f"{left} not looked at")


async def _answers(
    settings: ClientSettings, address: str, topics: Sequence[str]
) -> tuple[str, float | None, dict[str, TopicState]]:
    """Return the error of idempotent writing, the host's clock, and the state of each topic."""
    async with logged_in(settings, address) as peer:
        error, clock = await refuses_idempotence(peer), await ahead_ms(peer)
        if await requests.TOPICS.is_known(peer):
            return error, clock, await topic_states(peer, topics)
    counts = await partition_counts(settings, topics, TIMEOUT_S)
    states = {topic: TopicState(partitions=count) for topic, count in counts.items()}
    return error, clock, states


def _idempotence(error: str) -> Finding:
    subject = "idempotent writing"
    if not error:
        return Finding(Status.OK, subject, "allowed")
    remedy = "allow Write on the topics, or IdempotentWrite on the cluster"
    return Finding(Status.FAIL, subject, error, remedy)


def _clock(ahead: float | None) -> Finding:
    if ahead is None:
        text = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} here; the cluster does not tell its own"
        return Finding(Status.OK, "clock", text, "allow Describe on the cluster to compare them")
    text = f"{abs(ahead) / 1000:.1f} s {'ahead of' if ahead > 0 else 'behind'} the cluster's"
    if abs(ahead) > _WRONG_CLOCK_MS:
        return Finding(Status.WARN, "clock", text, "set the clocks of host and brokers by NTP")
    return Finding(Status.OK, "clock", text)


async def _topics(
    settings: ClientSettings, states: dict[str, TopicState], clock: float | None
) -> AsyncIterator[Finding]:
    present = [topic for topic, state in states.items() if state.partitions]
    missing = [t for t, state in states.items() if not state.partitions and state.visible]
    refused = await create_on_trial(settings, missing, TIMEOUT_S) if missing else {}
    values = await topic_settings(settings, present, TIMEOUT_S) if present else {}
    batch_bytes = Limits.of(settings).batch_bytes
    for topic, state in states.items():
        yield _topic(f"topic {topic}", state, refused.get(topic, ""))
        if topic in values:
            for finding in _settings(topic, values[topic], batch_bytes, clock or 0):
                yield finding
        elif state.partitions:
            text = "settings may not be read"
            yield Finding(Status.WARN, f"topic {topic}", text, "allow DescribeConfigs on it")


def _topic(subject: str, state: TopicState, refused: str) -> Finding:
    if not state.visible:
        return Finding(Status.FAIL, subject, "not visible", "allow Describe and Write on it")
    if refused:
        text = f"does not exist and cannot be created: {refused}"
        return Finding(Status.FAIL, subject, text, "create it, or allow Create on it")
    if not state.partitions:
        return Finding(Status.OK, subject, "does not exist yet; run creates it")
    text = counted(state.partitions, "partition")
    if state.may_write is False:
        return Finding(Status.FAIL, subject, f"{text}, may not be written", "allow Write on it")
    if state.leaderless:
        text += f", {state.leaderless} without a leader"
        return Finding(Status.WARN, subject, text, "see the state of the brokers")
    return Finding(Status.OK, subject, f"{text}, may be written" if state.may_write else text)


def _settings(topic: str, values: Values, batch_bytes: int, clock: float) -> Iterator[Finding]:
    yield Finding(Status.OK, f"topic {topic}", summary(values))
    for each in refused_times(topic, values, clock):
        yield Finding(Status.FAIL, f"topic {topic}", each.reason, each.remedy)
    for each in (*deletions(topic, values), *refusals(topic, values, batch_bytes)):
        yield Finding(Status.WARN, f"topic {topic}", each.reason, each.remedy)
