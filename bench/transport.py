"""What TLS and SASL cost: per record, from records to acknowledgements, and per connection.

CPU is that of this process, all threads. What TLS costs depends on the octets, so the
formats are measured with and without compression.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop
from broker.secure import SecureBroker

from bench.fleet.hosts import Fleet
from bench.lane import Lane
from bench.measure import Row, Samples, Table, cpu_us, interleave
from bench.records import PARTITIONS
from flowstream.kafka.client import admin_client
from flowstream.kafka.configuration import of_properties
from flowstream.sink import open_sink
from flowstream.urls import KafkaUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.accounting.ledger import Ledger
    from flowstream.kafka.settings import ClientSettings
    from flowstream.sink import Sink

RECORDS: Final = 40_000
ROUNDS: Final = 7
CONNECTIONS: Final = 20
SECURITY: Final = {
    "plaintext": ("PLAINTEXT", ""),
    "TLS": ("TLS", ""),
    "TLS and SCRAM-SHA-512": ("SASL", "SCRAM-SHA-512"),
}
"""Listener and SASL mechanism."""
FORMATS: Final = ("msgpack", "json")
CODECS: Final = ("none", "zstd")
BASE: Final = "plaintext"


def measure() -> Iterator[Table]:
    """Each kind of security over plaintext, by format and compression; then a connection."""
    with ExitStack() as stack:
        broker = stack.enter_context(SecureBroker())
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        for record_format, codec in itertools.product(FORMATS, CODECS):
            yield _records(runner, broker, record_format, codec)
        yield _connections(runner, broker)


def _settings(
    broker: SecureBroker, security: str, codec: str = "none"
) -> tuple[str, dict[str, str]]:
    """Return URL and properties."""
    listener, mechanism = SECURITY[security]
    properties = {"compression.type": codec}
    if listener != "PLAINTEXT":
        properties |= broker.settings(listener, mechanism=mechanism)
    return broker.url_of(listener), properties


def _sink(
    broker: SecureBroker, security: str, record_format: str, codec: str
) -> Callable[[Ledger], Sink]:
    url, properties = _settings(broker, security, codec)
    return partial(
        open_sink, url, partitions=PARTITIONS, record_format=record_format,
        client=of_properties(properties),
    )  # fmt: skip


def _records(
    runner: asyncio.Runner, broker: SecureBroker, record_format: str, codec: str
) -> Table:
    fleet = Fleet(hosts=2, flows=RECORDS, intervals=1, seed=7)
    run = next(fleet.runs())
    records = fleet.records(run, 0)
    cases: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for number, security in enumerate(SECURITY):
            lane = Lane(
                runner, _sink(broker, security, record_format, codec), record_format,
                run.identity, prefix=f"{number}-{record_format}-{codec}",
            )  # fmt: skip
            stack.enter_context(lane)
            cases[security] = lambda lane=lane: cpu_us(lambda: lane.publish(records))  # type: ignore[misc]
        taken = interleave(cases, ROUNDS)
    return Table(
        f"Transport, {record_format}, compression.type {codec}, {RECORDS:,} flows a sample",
        "µs CPU per record",
        BASE,
        [Row(security, samples, taken[BASE]) for security, samples in taken.items()],
    )


def _connections(runner: asyncio.Runner, broker: SecureBroker) -> Table:
    async def connect(client: ClientSettings) -> int:
        for _ in range(CONNECTIONS):
            async with admin_client(client):
                pass
        return CONNECTIONS

    def sample(client: ClientSettings) -> float:
        return cpu_us(lambda: runner.run(connect(client))) / 1000

    cases = {}
    for security in SECURITY:
        url, properties = _settings(broker, security)
        where = parse_url(url)
        assert isinstance(where, KafkaUrl)
        client = of_properties(properties).at(where.addresses)
        cases[security] = partial(sample, client)
    taken: dict[str, Samples] = interleave(cases, ROUNDS)
    return Table(
        "A connection: set up, versions and nodes asked, closed",
        "ms CPU",
        BASE,
        [Row(security, samples, taken[BASE]) for security, samples in taken.items()],
    )
