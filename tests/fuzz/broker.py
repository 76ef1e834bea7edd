"""Answers of a Kafka broker, to the source, the sink and the requests of an admin client.

The input is a list of answers: API key, length in 2 octets, body. A request gets the
next answer of its key in turn, or a valid one if the input has none. aiokafka parses
most of them; the target checks how flowstream handles its results and errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import warnings
from collections import defaultdict
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final, cast
from unittest.mock import patch

import structlog.testing
from aiokafka.protocol.admin import (
    ApiVersionResponse_v0,
    CreateTopicsResponse_v0,
    DescribeConfigsResponse_v0,
)
from aiokafka.protocol.fetch import FetchResponse_v4
from aiokafka.protocol.metadata import MetadataResponse_v1
from aiokafka.protocol.offset import OffsetResponse_v1
from aiokafka.protocol.produce import ProduceResponse_v3
from aiokafka.protocol.transaction import InitProducerIdResponse_v0
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from support.outcomes import Account, make_batch

from flowstream.check.cluster import check_cluster
from flowstream.errors import SinkError, SourceError
from flowstream.kafka import requests
from flowstream.kafka import source as kafka_source
from flowstream.kafka.admin import partition_counts
from flowstream.kafka.diagnosis import why_unreachable
from flowstream.kafka.limits import Limits
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import ClientSettings, Sasl
from flowstream.kafka.sink import KafkaSink
from flowstream.kafka.topic_settings import losing, overdue
from fuzz import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from aiokafka.protocol.api import Response

    from flowstream.messages import Message

_ITEM: Final = struct.Struct(">BH")
_REQUEST: Final = struct.Struct(">hhi")
_LENGTH: Final = struct.Struct(">i")
# Stands for the port of the broker in metadata.
_PORT: Final = (9092).to_bytes(4)
_TOPIC: Final = "t.flows"
_FETCH, _METADATA = 1, 3
_SECONDS: Final = 60.0
_MOST_LISTS: Final = 100
_RECORDS: Final = 5
_LIMITS: Final = Limits(
    delivery_timeout=2,
    stuck_timeout=1.5,
    request_timeout=1,
    connect_timeout=1,
    grace=0.2,
    backoff=(0.1, 0.5),
)


def _body(answer: Response) -> bytes:
    return bytes(answer.encode())


def _versions(*ranges: tuple[int, int]) -> bytes:
    """Return the answer with the versions of requests that the broker knows."""
    return _body(ApiVersionResponse_v0(0, [(key, version, version) for key, version in ranges]))


def _records() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 4096)
    for number in range(3):
        builder.append(number, 1_700_000_000_000, b"key", b"value", [("h", b"x")])
    return bytes(builder.build())


def _fetched(error: int, records: bytes) -> bytes:
    return _body(FetchResponse_v4(0, [(_TOPIC, [(0, error, 3, 3, [], records)])]))


def _offsets(error: int, offset: int) -> bytes:
    return _body(OffsetResponse_v1([(_TOPIC, [(0, error, -1, offset)])]))


def _metadata(error: int, partitions: int) -> bytes:
    numbers = [(error, number, 1, [1], [1]) for number in range(partitions)]
    topics = [(error, _TOPIC, False, numbers)] if partitions or error else []
    return _body(MetadataResponse_v1([(1, "127.0.0.1", 9092, None)], 1, topics))


def _settings(**values: str | None) -> bytes:
    entries = [
        (name.replace("_", "."), value, False, False, False) for name, value in values.items()
    ]
    return _body(DescribeConfigsResponse_v0(0, [(0, None, 2, _TOPIC, entries)]))


@cache
def _valid() -> dict[int, list[bytes]]:
    """Answers of a broker with a topic of one partition and three records, by API key."""
    return {
        0: [ProduceResponse_v3([(_TOPIC, [(0, 0, 3, -1)])], 0).encode()],
        _FETCH: [_fetched(0, _records())],
        2: [_offsets(0, 0), _offsets(0, 3)],
        _METADATA: [_metadata(0, 1)],
        17: [_mechanisms(0, "PLAIN", "SCRAM-SHA-256")],
        18: [_versions((0, 3), (1, 4), (2, 1), (3, 1), (18, 0), (19, 0), (22, 0), (32, 0))],
        19: [CreateTopicsResponse_v0([(_TOPIC, 0)]).encode()],
        22: [InitProducerIdResponse_v0(0, 0, 7, 0).encode()],
        36: [_logged_in(b"")],
        32: [
            _settings(
                cleanup_policy="delete", message_timestamp_type="CreateTime", retention_ms="3600"
            )
        ],
    }


def _items(*answers: tuple[int, bytes]) -> bytes:
    return b"".join(_ITEM.pack(key, len(body)) + body for key, body in answers)


def seeds() -> Sequence[bytes]:
    """Return the valid answers, those of a broker that refuses, and strange settings."""
    every = _items(*((key, body) for key, bodies in _valid().items() for body in bodies))
    return [
        every,
        _items((3, _metadata(0, 0)), (3, _metadata(0, 1)), (19, _valid()[19][0])),
        _items((3, _metadata(29, 1))),
        _items((2, _offsets(0, 0)), (2, _offsets(0, 2**62))),
        _items(
            (1, _fetched(1, b"")),
            (0, ProduceResponse_v3([(_TOPIC, [(0, 29, -1, -1)])], 0).encode()),
        ),
        _items((32, _settings(cleanup_policy="delete", retention_ms="a week"))),
        _items((32, _settings(retention_ms=None))),
        _items((18, _versions((3, 1)))),
        _rights(0, 1, 1 << 4),
        _rights(29, 0, -(1 << 31)),
        _items((17, _mechanisms(33, "PLAIN"))),
        _items((17, _mechanisms(0, "SCRAM-SHA-256")), (36, _logged_in(b"r=x,s=c2FsdA==,i=4096"))),
    ]


def _rights(error: int, partitions: int, operations: int) -> bytes:
    """Answers of a broker that tells operations and its clock, to the check alone."""
    numbers: list[tuple[object, ...]] = [
        (error, number, 1, 0, [1], [1], []) for number in range(partitions)
    ]
    topics = [(error, _TOPIC, False, numbers, operations)]
    brokers = [(1, "127.0.0.1", 9092, None)]
    replica: tuple[object, ...] = (1, 7, 1_700_000_000_000, 1_700_000_000_000, {})
    quorum: list[tuple[object, ...]] = [
        ("__cluster_metadata", [(0, 0, 1, 1, 7, [replica], [], {})], {})
    ]
    return _items(
        (18, _versions((3, 8), (22, 0), (55, 1))),
        (_METADATA, _body(MetadataResponse_v1(brokers, 1, []))),
        (_METADATA, requests.TOPICS.answered.encode((0, brokers, None, 1, topics))),
        (55, requests.QUORUM.answered.encode(({}, 0, quorum, {}))),
    )


def _mechanisms(error: int, *names: str) -> bytes:
    return bytes(requests.SASL_HANDSHAKE.answered.encode((error, names)))


def _logged_in(octets: bytes) -> bytes:
    return bytes(requests.SASL_AUTHENTICATE.answered.encode((0, None, octets)))


def target(data: bytes) -> None:
    """Read, publish and look around with such a broker."""
    with (
        patch.multiple(kafka_source, CONNECT_TIMEOUT=2.0, PROGRESS_TIMEOUT=2.0),
        structlog.testing.capture_logs(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ResourceWarning)
        virtual_time.run(_use(_answers(data)), _SECONDS)


def _answers(data: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = defaultdict(list)
    at = 0
    while at + _ITEM.size <= len(data):
        key, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        found[key].append(data[at : at + length])
        at += length
    return _valid() | found


async def _use(answers: dict[int, list[bytes]]) -> None:
    for use in (_read, _publish, _look, _check, _log_in):
        async with _broker(answers) as port:
            await use(ClientSettings((f"127.0.0.1:{port}",), request_timeout=1))


async def _read(settings: ClientSettings) -> None:
    source = kafka_source.KafkaSource(settings, [_TOPIC])
    with contextlib.suppress(SourceError):
        sizes = await source.sizes()
        assert list(sizes) == [_TOPIC]
    with contextlib.suppress(SourceError):
        lists = 0
        async with contextlib.aclosing(_generator(source)) as batches:
            async for messages in batches:
                assert messages
                lists += 1
                if lists == _MOST_LISTS:
                    break


def _generator(source: kafka_source.KafkaSource) -> AsyncGenerator[list[Message], None]:
    return cast("AsyncGenerator[list[Message], None]", source.batches())


async def _publish(settings: ClientSettings) -> None:
    account = Account()
    sink = KafkaSink(settings, account, partitions=1, limits=_LIMITS)
    try:
        await sink.start([_TOPIC])
    except SinkError:
        await sink.close(1)
        return
    for number in range(2):
        await sink.send(make_batch(_TOPIC, number, 0, _RECORDS))
    await sink.flush(3)
    await sink.close(1)
    assert account.settled == 2 * _RECORDS


async def _look(settings: ClientSettings) -> None:
    with contextlib.suppress(SinkError):
        counts = await partition_counts(settings, [_TOPIC], 2.0)
        assert list(counts) == [_TOPIC]
    assert {each.topic for each in await losing(settings, [_TOPIC], 2.0)} <= {_TOPIC}
    for line in await overdue(settings, {_TOPIC: 1}, 2.0):
        assert _TOPIC in line


async def _check(settings: ClientSettings) -> None:
    async for finding in check_cluster(settings, [_TOPIC]):
        assert finding.text.isprintable()


async def _log_in(settings: ClientSettings) -> None:
    for mechanism in ("PLAIN", "SCRAM-SHA-256"):
        sasl = Sasl(mechanism, "user", Secret("password"))
        assert (await why_unreachable(replace(settings, sasl=sasl))).isprintable()


@contextlib.asynccontextmanager
async def _broker(answers: dict[int, list[bytes]]) -> AsyncIterator[int]:
    """Listen for the block; yields the port."""
    used: dict[int, int] = defaultdict(int)
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(4))
                request = await reader.readexactly(length)
                key, _, correlation = _REQUEST.unpack_from(request)
                bodies = answers.get(key)
                if not bodies:
                    break
                body = bodies[used[key] % len(bodies)]
                used[key] += 1
                if key == _METADATA:
                    body = body.replace(_PORT, port.to_bytes(4))
                frame = correlation.to_bytes(4, signed=True) + body
                writer.write(_LENGTH.pack(len(frame)) + frame)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
        for writer in writers:
            writer.close()
