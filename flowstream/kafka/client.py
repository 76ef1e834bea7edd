"""Clients of a Kafka cluster: the only module that constructs those of aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowstream.kafka.settings import ClientSettings

_LOOK_TIMEOUT = 2.0

_Client = TypeVar("_Client")


def new_producer(settings: ClientSettings, **options: Any) -> AIOKafkaProducer:
    """Make a producer, not started yet; ``options`` are aiokafka's."""
    return _new(AIOKafkaProducer, settings, **options)


def new_consumer(
    settings: ClientSettings,
    *topics: str,
    kind: type[AIOKafkaConsumer] = AIOKafkaConsumer,
    **options: Any,
) -> AIOKafkaConsumer:
    """Make a consumer of the class ``kind``, not started yet; ``options`` are aiokafka's."""
    return _new(kind, settings, *topics, **options)


@contextlib.asynccontextmanager
async def admin_client(settings: ClientSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Start an admin client for the block; lets aiokafka's errors through."""
    admin = _new(AIOKafkaAdminClient, settings)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


def _new(
    kind: Callable[..., _Client], settings: ClientSettings, *topics: str, **options: Any
) -> _Client:
    _quieten_aiokafka()
    shared = {
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout * 1000),
    }
    return kind(*topics, bootstrap_servers=list(settings.addresses), **(shared | options))


def _quieten_aiokafka() -> None:
    """Log aiokafka's report of every retry at level DEBUG only: sink and source sum up."""
    logger = logging.getLogger("aiokafka")
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.CRITICAL)


async def why_unreachable(settings: ClientSettings) -> str:
    """Say in a few words what happens on a plain connection to each address."""
    return "; ".join([f"{address} {await _look(address)}" for address in settings.addresses])


async def _look(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return "does not answer"
    except socket.gaierror:
        return "does not resolve to an address"
    except OSError as err:
        return os.strerror(err.errno).lower() if err.errno else str(err)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return "accepts connections but does not answer as a Kafka broker"
