"""Connects the Kafka sink's producers, and retries until the cluster answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import BrokerResponseError, KafkaError

from flowstream.errors import SinkError
from flowstream.kafka.diagnosis import Diagnosis, diagnosed, why_unreachable
from flowstream.kafka.producer import Producer
from flowstream.kafka.topic_settings import losing
from flowstream.waiting import Pauses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kafka.limits import Limits
    from flowstream.kafka.settings import ClientSettings

log = structlog.get_logger(__name__)

# Seconds: the first pause after a refusal, such as of a password, and the longest.
_REFUSED = (1.0, 30.0)


class Cluster:
    """Maker of producers for one cluster; topics that it creates get ``topic_settings``.

    ``topics`` are those to be published to; set them before connecting.
    """

    def __init__(
        self,
        settings: ClientSettings,
        limits: Limits,
        *,
        partitions: int | Mapping[str, int],
        topic_settings: Mapping[str, str],
    ) -> None:
        self.topics: tuple[str, ...] = ()
        self._settings = replace(settings, request_timeout=limits.request_timeout)
        self._limits = limits
        self._wanted, self._topic_settings = partitions, topic_settings
        self._pauses = Pauses(*limits.backoff)
        self._connected = 0.0

    @property
    def url(self) -> str:
        """URL of the cluster, for messages."""
        return self._settings.url

    def wanted(self, topic: str) -> int:
        """Return the number of partitions that the topic is created with if it is missing."""
        return self._wanted if isinstance(self._wanted, int) else self._wanted[topic]

    async def connect(self) -> Producer:
        """Wait for the broker and create missing topics; ``SinkError`` when that fails."""
        last: Exception | None = None
        why: Diagnosis | None = None
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                while True:
                    try:
                        return await self._connect(strict=True)
                    except SinkError:
                        raise
                    except Exception as err:  # noqa: BLE001 - a listener that is not a broker
                        last = err
                    why = why or await diagnosed(self._settings)
                    if why.lasting:
                        raise SinkError(f"{self.url}: {why.text}") from last
                    await self._pauses.take()
        except TimeoutError:
            text = await why_unreachable(self._settings)
            raise SinkError(
                f"no Kafka broker after {self._limits.connect_timeout:g} s: {text}"
            ) from last

    async def advise(self) -> None:
        """Warn of topics that do not keep what is published."""
        for each in await losing(self._settings, self.topics, self._limits.connect_timeout):
            said = {"topic": each.topic, "reason": each.reason, "remedy": each.remedy}
            if each.setting == "retention.ms":
                log.warning("kafka_topic_retention", **said)
            else:
                log.warning("kafka_topic_compacted", **said)

    async def reconnect(self) -> Producer:
        """Pause, then connect again, however long it takes.

        The pauses grow across producers that are soon given up: a fault that hits
        every producer does not cause a storm.
        """
        if _now() - self._connected > self._limits.backoff[1]:
            self._pauses.restart()
        await self._pauses.take()
        return await self.reach()

    async def reach(self) -> Producer:
        """Connect and create missing topics, however long it takes; log why it waits.

        Goes on without topics that the cluster refuses, as long as there are others.
        """
        since = _now()
        told: set[str] = set()
        failures, lasting, refusals = 0, False, Pauses(*_REFUSED)
        while True:
            try:
                async with asyncio.timeout(self._limits.connect_timeout):
                    producer = await self._connect(strict=False)
            except Exception as err:  # noqa: BLE001 - a broken broker causes any
                failures += 1
                # A look costs the broker another login: less and less often.
                if isinstance(err, SinkError) or failures & (failures - 1) == 0:
                    lasting = await self._tell(err, told)
                await (refusals if lasting else self._pauses).take()
                continue
            if told:
                log.info("kafka_reachable", after_s=round(_now() - since, 1))
            return producer

    async def _tell(self, err: Exception, told: set[str]) -> bool:
        """Log why no broker can be used; return whether that will last.

        One line for no answer, one for a refusal, and one for each fault that lasts.
        """
        if isinstance(err, SinkError):
            kind, why = "refusal", Diagnosis(str(err), lasting=True)
        else:
            why = await diagnosed(self._settings)
            kind = why.text if why.lasting else "no answer"
        if kind not in told:
            told.add(kind)
            to, error = self._settings.addresses, name_of(err)
            log.warning("kafka_unreachable", to=to, reason=why.text, error=error)
        return why.lasting

    async def _connect(self, *, strict: bool) -> Producer:
        producer = await Producer.connect(
            self._settings,
            {topic: self.wanted(topic) for topic in self.topics},
            topic_settings=self._topic_settings,
            batch_bytes=self._limits.batch_bytes,
            metadata_age=self._limits.metadata_age,
            backoff=self._limits.backoff,
            strict=strict,
        )
        self._connected = _now()
        return producer


def name_of(err: BaseException) -> str:
    """Name the error in one line, without its request."""
    if isinstance(err, BrokerResponseError):
        return type(err).__name__
    return str(err) if isinstance(err, KafkaError) else repr(err)


def _now() -> float:
    return asyncio.get_running_loop().time()
