"""Clients of a Kafka cluster: the only module that constructs those of aiokafka."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection

import flowstream.kafka.scram  # noqa: F401 - bounds what a server asks of the clients here
from flowstream.errors import MissingExtraError, UsageError
from flowstream.kafka.connections import close_late_connections
from flowstream.kafka.frames import BoundedId
from flowstream.kafka.oauth import provider_of
from flowstream.kafka.pacing import pace_metadata
from flowstream.kafka.reloading import revealed
from flowstream.kafka.tls import context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowstream.kafka.secrets import Secret
    from flowstream.kafka.settings import ClientSettings, Sasl

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


def authenticator(sasl: Sasl) -> Any:
    """Return aiokafka's side of a SASL exchange, for a connection that is not aiokafka's."""
    _quieten_aiokafka()
    connection = AIOKafkaConnection("", 0, client_id=BoundedId(), **_login(sasl))
    match sasl.mechanism:
        case "PLAIN":
            return connection.authenticator_plain()
        case "OAUTHBEARER":
            return connection.authenticator_oauth()
        case _:
            return connection.authenticator_scram()


def load(settings: ClientSettings) -> None:
    """Read certificates and keys now; ``UsageError`` names a file that cannot be used.

    Clients of these settings keep them, so that privileges may be given up.
    """
    if settings.tls is not None:
        context(settings.tls)
    if settings.sasl is not None and settings.sasl.oauth is not None:
        provider_of(settings.sasl.oauth)


def codec_of(settings: ClientSettings) -> str | None:
    """Return aiokafka's name of the batches' codec; ``MissingExtraError`` without its library."""
    codec = settings.compression
    if codec == "none":
        return None
    if codec != "gzip" and importlib.util.find_spec("cramjam") is None:
        raise MissingExtraError("kafka", f"compression.type={codec}")
    return codec


def rack_of(settings: ClientSettings) -> dict[str, Any]:
    """Return aiokafka's option for a consumer's rack; ``UsageError`` where it has none."""
    if not settings.rack:
        return {}
    if "client_rack" not in inspect.signature(AIOKafkaConsumer).parameters:
        raise UsageError("client.rack: requires aiokafka 0.14 or later")
    return {"client_rack": settings.rack}


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
    client = _client_of(made)
    pace_metadata(client)
    close_late_connections(client)
    if settings.sasl is not None and settings.sasl.password is not None:
        _renew_password(client, settings.sasl.password)
    return made


def _client_of(made: Any) -> Any:
    """Return aiokafka's client in a producer, consumer or admin client."""
    # Producers show their client, consumers and admin clients do not.
    return getattr(made, "_client", None) or getattr(made, "client", made)


def _renew_password(client: Any, password: Secret) -> None:
    """Let each new connection of a client use the password of that time.

    aiokafka keeps the one that it was given.
    """
    connect = client._get_conn  # noqa: SLF001 - makes all connections but the first ones

    async def renewed(*args: Any, **kwargs: Any) -> object:
        client._sasl_plain_password = revealed(password)  # noqa: SLF001
        return await connect(*args, **kwargs)

    client._get_conn = renewed  # noqa: SLF001


def _login(sasl: Sasl) -> dict[str, Any]:
    found: dict[str, Any] = {"sasl_mechanism": sasl.mechanism}
    if sasl.password is not None:
        found["sasl_plain_username"] = sasl.username
        found["sasl_plain_password"] = revealed(sasl.password)
    if sasl.oauth is not None:
        found["sasl_oauth_token_provider"] = provider_of(sasl.oauth)
    return found


def _quieten_aiokafka() -> None:
    """Log aiokafka's report of every retry at level DEBUG only: sink and source sum up."""
    logging.getLogger("aiokafka.conn").addFilter(_without_login)
    logger = logging.getLogger("aiokafka")
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.CRITICAL)


def _without_login(record: logging.LogRecord) -> bool:
    """Take passwords and tokens out of a log record: aiokafka logs all requests as they are."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(each).__name__ if "SaslAuthenticate" in type(each).__name__ else each
            for each in record.args
        )
    return True
