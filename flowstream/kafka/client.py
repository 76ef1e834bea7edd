"""Clients of a Kafka cluster: the only module that constructs those of aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import reprlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from flowstream.kafka.frames import BoundedId
from flowstream.kafka.oauth import provider_of
from flowstream.kafka.pacing import pace_metadata
from flowstream.kafka.tls import context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowstream.kafka.settings import ClientSettings, Sasl

_LOOK_TIMEOUT = 2.0
# A few brokers of a large cluster are enough to find the fault.
_LOOK_MOST = 3
# A broker may advertise any text.
_TEXTS = reprlib.Repr()
_TEXTS.maxstring = 400

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
    shared: dict[str, Any] = {
        "client_id": BoundedId(settings.client_id),
        "request_timeout_ms": int(settings.request_timeout * 1000),
        "security_protocol": settings.security_protocol,
    }
    if settings.metadata_max_age is not None:
        shared["metadata_max_age_ms"] = int(settings.metadata_max_age * 1000)
    if settings.tls is not None:
        shared["ssl_context"] = context(settings.tls)
    if settings.sasl is not None:
        shared |= _login(settings.sasl)
    made = kind(*topics, bootstrap_servers=list(settings.addresses), **(shared | options))
    # Producers show their client, consumers and admin clients do not.
    pace_metadata(getattr(made, "_client", None) or getattr(made, "client", made))
    return made


def _login(sasl: Sasl) -> dict[str, Any]:
    found: dict[str, Any] = {"sasl_mechanism": sasl.mechanism}
    if sasl.password is not None:
        found["sasl_plain_username"] = sasl.username
        found["sasl_plain_password"] = sasl.password.reveal()
    if sasl.oauth is not None:
        found["sasl_oauth_token_provider"] = provider_of(sasl.oauth)
    return found


def _quieten_aiokafka() -> None:
    """Log aiokafka's report of every retry at level DEBUG only: sink and source sum up."""
    logger = logging.getLogger("aiokafka")
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.CRITICAL)


async def why_unreachable(settings: ClientSettings) -> str:
    """Describe in a few words the result of a plain connection to each address.

    If a broker answers, the addresses that it advertises are tried: clients use those.
    """
    found = []
    for address in settings.addresses:
        look = await _look(address)
        if look is None:
            look = await _look_beyond(replace(settings, addresses=(address,)))
        found.append(f"{address} {look}")
    return "; ".join(found)


async def _look_beyond(settings: ClientSettings) -> str:
    """Describe why a listener that accepts connections cannot be used as a broker."""
    client = _new(AIOKafkaClient, settings)
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT):
            await client.bootstrap()
        advertised = [_address(broker.host, broker.port) for broker in client.cluster.brokers()]
    except Exception:  # noqa: BLE001 - a listener that is not a broker causes errors of any kind
        advertised = []
    finally:
        await client.close()
    if not advertised:
        return "accepts connections but does not answer as a Kafka broker"
    looks = [(address, await _look(address)) for address in advertised[:_LOOK_MOST]]
    wrong = [f"{_TEXTS.repr(address)[1:-1]} ({look})" for address, look in looks if look]
    if not wrong:
        return "answers, but not in time"
    return f"answers, but its advertised.listeners names {'; '.join(wrong)}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _look(address: str) -> str | None:
    """Try a connection; return the reason why it failed, None if it did not."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return "does not answer"
    except (socket.gaierror, UnicodeError):  # UnicodeError: a part is longer than 63 letters
        return "does not resolve to an address"
    except (OverflowError, ValueError):  # a port beyond 65535, a NUL
        return "is not an address"
    except OSError as err:
        return os.strerror(err.errno).lower() if err.errno else str(err)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None
