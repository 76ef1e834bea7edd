"""Settings of topics that delete or refuse what is published, with remedies."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from flowstream.kafka.client import admin_client
from flowstream.kafka.looks import shown
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from flowstream.kafka.settings import ClientSettings

Values = dict[str, str | None]
"""Settings of a topic by name."""

# Every message counts, even when a later one has the same key.
_WITHOUT_SUCCESSOR: Final = (f".{Stream.FLOWS}", f".{Stream.NEW_FLOWS}")
_POLICY, _RETENTION = "cleanup.policy", "retention.ms"
_TIMES, _SIZE = "message.timestamp.type", "max.message.bytes"
_BEFORE, _AFTER = "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"
# Of brokers before Kafka 3.6: in both directions.
_EITHER: Final = "message.timestamp.difference.max.ms"
SHOWN: Final = (_POLICY, _RETENTION, _TIMES, _BEFORE, _AFTER, _EITHER, _SIZE)
"""The settings that count, in the order of a report."""

# Long.MAX_VALUE is no limit.
_NOTHING: Final = (None, "", str(2**63 - 1))
# An audit needs the records of a run, and an outage may last.
_SHORTEST_RETENTION_MS: Final = 3_600_000
_SHORTEST_BEFORE_MS: Final = 86_400_000
# Clocks of hosts differ by less.
_SHORTEST_AFTER_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Advice:
    """A setting of a topic that loses or refuses records, and the remedy."""

    topic: str
    setting: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.reason}; {self.remedy}"


async def topic_settings(
    settings: ClientSettings, topics: Sequence[str], within: float
) -> dict[str, Values]:
    """Return the values of ``SHOWN`` by topic, of the topics that answer in time."""
    # A listener that is not a broker causes errors of any kind, also in its answers.
    with contextlib.suppress(Exception):
        async with (
            asyncio.timeout(within),
            admin_client(replace(settings, request_timeout=within)) as admin,
        ):
            return await described(admin, topics)
    return {}


async def described(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, Values]:
    """Return the values of ``SHOWN`` by topic, without topics whose settings may not be read."""
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(SHOWN)) for topic in topics
    ]
    return {
        topic: {entry[0]: entry[1] for entry in entries}
        for answer in await admin.describe_configs(asked)
        for error, _, _, topic, entries in answer.resources
        if not error and topic in topics
    }


async def losing(settings: ClientSettings, topics: Sequence[str], within: float) -> list[Advice]:
    """Return the settings of these topics that delete records; see ``deletions``."""
    found = await topic_settings(settings, topics, within)
    return [each for topic, values in found.items() for each in deletions(topic, values)]


def deletions(topic: str, values: Values) -> Iterator[Advice]:
    """Yield the settings that delete records soon, or although nothing replaces them.

    Compacted topics of counters are left out: the latest record of a key includes all
    earlier ones.
    """
    policy = values.get(_POLICY) or ""
    if "compact" in policy and topic.endswith(_WITHOUT_SUCCESSOR):
        reason = f"{_POLICY}={shown(policy)} deletes records of all flows but the latest"
        yield Advice(topic, _POLICY, reason, f"set {_POLICY}=delete")
    keep_ms = _number(values, _RETENTION)
    if "delete" in policy and 0 <= keep_ms < _SHORTEST_RETENTION_MS:
        reason = f"{_RETENTION}={keep_ms} deletes records after {keep_ms / 1000:g} s"
        yield Advice(topic, _RETENTION, reason, f"set {_RETENTION} to how long they are needed")


def refused_times(topic: str, values: Values, ahead_ms: float) -> Iterator[Advice]:
    """Yield the settings that make the broker refuse what this host publishes now.

    ``ahead_ms``: by how much its clock is ahead of the broker's.
    """
    for name, by_ms, direction in ((_BEFORE, -ahead_ms, "behind"), (_AFTER, ahead_ms, "ahead")):
        setting, limit = _time_limit(values, name)
        if 0 <= limit < by_ms:
            reason = (
                f"{setting}={limit} refuses the records of this host: its clock is "
                f"{by_ms / 1000:.0f} s {direction}"
            )
            yield Advice(topic, setting, reason, "set the clocks of host and brokers by NTP")


def refusals(topic: str, values: Values, batch_bytes: int) -> Iterator[Advice]:
    """Yield the settings that may make the broker refuse records, or ``batch_bytes`` of them."""
    for name, shortest, whose in (
        (_BEFORE, _SHORTEST_BEFORE_MS, "records that waited through an outage of more than"),
        (_AFTER, _SHORTEST_AFTER_MS, "records of a host whose clock is ahead by more than"),
    ):
        setting, limit = _time_limit(values, name)
        if 0 <= limit < shortest:
            reason = f"{setting}={limit} refuses {whose} {limit / 1000:g} s"
            yield Advice(topic, setting, reason, f"set it to {shortest} or more")
    most = _number(values, _SIZE)
    if 0 <= most < batch_bytes:
        reason = f"{_SIZE}={most} refuses batches of {batch_bytes} octets, which are then divided"
        yield Advice(
            topic, _SIZE, reason, f"set it to {batch_bytes} or more, or batch.size to less"
        )


def _time_limit(values: Values, name: str) -> tuple[str, int]:
    """Return the setting that limits times in this direction, and its ms, -1 for no limit."""
    if values.get(_TIMES) == "LogAppendTime":
        return name, -1
    limit = _number(values, name)
    return (name, limit) if limit >= 0 else (_EITHER, _number(values, _EITHER))


def summary(values: Values) -> str:
    """Return the settings in one line, without those that set no limit or do not exist."""
    present = [(name, values.get(name)) for name in SHOWN]
    return shown(", ".join(f"{name}={value}" for name, value in present if value not in _NOTHING))


async def overdue(
    settings: ClientSettings, oldest_ms: Mapping[str, int], within: float
) -> list[str]:
    """Return a warning for each topic that does not keep messages as old as those sent.

    ``oldest_ms`` is the least timestamp by topic, in Unix ms; a negative one is
    ignored. Topics whose settings the cluster does not report within
    ``within`` seconds are left out: this is only advice.
    """
    found = await topic_settings(settings, tuple(oldest_ms), within)
    now_ms = time.time_ns() // 1_000_000
    warnings = []
    for topic, values in found.items():
        oldest, keep_ms = oldest_ms[topic], _keep_ms(values)
        if 0 <= oldest < now_ms - keep_ms and keep_ms >= 0:
            day = datetime.fromtimestamp(oldest / 1000, UTC).date()
            warnings.append(
                f"topic {topic}: the oldest message sent is from {day}, and the topic's "
                f"retention.ms={keep_ms} makes the broker delete such messages soon; "
                "set retention.ms=-1 to keep them"
            )
    return warnings


def _keep_ms(values: Values) -> int:
    """Return the age at which messages are deleted; -1 when their times do not matter.

    Also -1 for a cluster that lacks one of these settings: not all are Kafka's own.
    """
    by_time = "delete" in (values.get(_POLICY) or "")
    own_times = values.get(_TIMES) == "CreateTime"
    return _number(values, _RETENTION) if by_time and own_times else -1


def _number(values: Values, name: str) -> int:
    """Return the value of a setting, -1 for no limit or a cluster that lacks it."""
    value = values.get(name) or ""
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else -1
