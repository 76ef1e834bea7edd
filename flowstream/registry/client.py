"""Registers schemas with a schema registry that speaks Confluent's API.

This module alone uses the client library; importing it requires the extra ``registry``.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from flowstream import schemas
from flowstream.encode import Prefixes
from flowstream.errors import SinkError
from flowstream.schemas.topics import RECORD_TYPES

_TIMEOUT_S: Final = 10
_TYPES: Final = {"avro": "AVRO", "protobuf": "PROTOBUF"}
_NOT_FOUND, _CONFLICT, _DENIED = 404, 409, (401, 403)
# https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop:
# a zero octet, the schema's id in 4 octets, and for Protobuf the index of the message (0).
_MAGIC: Final = b"\0"
_FIRST_MESSAGE: Final = {"avro": b"", "protobuf": b"\0"}


def connect(url: str) -> SchemaRegistryClient:
    """Return a client that gives up within half a minute; nothing is sent yet."""
    return SchemaRegistryClient({"url": url, "timeout": _TIMEOUT_S, "max.retries": 1})


def prefixes(client: SchemaRegistryClient, record_format: str, topic_prefix: str) -> Prefixes:
    """Look up or register the schemas of all topics; return the prefixes of their values.

    ``record_format`` is avro or protobuf; the subjects are ``TOPIC-value``.
    Blocks. Raises ``SinkError`` when the registry cannot be reached or refuses
    a schema.
    """
    by_type = {}
    for stream, record_type in RECORD_TYPES.items():
        schema = Schema(schemas.text(record_format, stream), _TYPES[record_format])
        number = _identifier(client, f"{topic_prefix}.{stream}-value", schema)
        by_type[record_type] = _MAGIC + number.to_bytes(4) + _FIRST_MESSAGE[record_format]
    return Prefixes(by_type)


def _identifier(client: SchemaRegistryClient, subject: str, schema: Schema) -> int:
    try:
        return _found(client, subject, schema) or client.register_schema(subject, schema)
    except SchemaRegistryError as err:
        raise SinkError(f"{_where(client)}: subject {subject}: {_refusal(err)}") from err
    # The library lets the errors of its HTTP client through; their types are not its API.
    except Exception as err:
        cause = str(err) or type(err).__name__
        raise SinkError(f"{_where(client)}: cannot be used: {cause}") from err


def _found(client: SchemaRegistryClient, subject: str, schema: Schema) -> int | None:
    """Return the id of a registered schema: an agent may lack the right to register."""
    try:
        return client.lookup_schema(subject, schema).schema_id
    except SchemaRegistryError as err:
        if err.http_status_code == _NOT_FOUND:
            return None
        raise


def _refusal(err: SchemaRegistryError) -> str:
    said = f"{err.error_message} (HTTP {err.http_status_code})"
    if err.http_status_code == _CONFLICT:
        return (
            f"its schema is not compatible with this version's: {said}; "
            "use another topic prefix or change the subject's compatibility"
        )
    if err.http_status_code == _NOT_FOUND:
        return "no registry API at this path (HTTP 404); Apicurio's path is /apis/ccompat/v7"
    if err.http_status_code in _DENIED:
        return f"access denied: {said}; put USER:PASSWORD@ before the registry's host"
    return f"the schema was refused: {said}"


def _where(client: SchemaRegistryClient) -> str:
    """Name the registry, without user and password."""
    parts = urlsplit(client.config()["url"])  # type: ignore[no-untyped-call]
    return f"registry {parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()}"
