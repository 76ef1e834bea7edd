"""Connections out of the topics of flows and announcements: both directions, and who began.

::

    python connections.py --brokers 127.0.0.1:9092

Prints a JSON line for each connection that was quiet for ``--quiet`` seconds, of records in any
format. Both directions of a connection have one key, so each partition is paired by itself.
Aggregated records (``flow_count`` above 1) belong to no connection and are reported at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer

from flowstream.errors import DecodeError, FlowstreamError
from flowstream.records import Biflow, BiflowPairing, FlowRecord, Uniflow, decode

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord, TopicPartition

TOPICS = ("flowstream.flows", "flowstream.new_flows")
SECOND_NS = 1_000_000_000
REMEMBERED = 100_000
"""Records of a partition among which none counts twice."""


class Partition:
    """Connections of one partition of both topics; its own time goes on with its records."""

    def __init__(self, quiet_ns: int) -> None:
        self.pairing = BiflowPairing()
        self._quiet_ns = quiet_ns
        self._seen: dict[tuple[bytes, int, int, int], None] = {}
        """The last records, in their order: one may come twice."""
        self._newest_ns = self._due_ns = 0

    def add(self, record: FlowRecord) -> None:
        """Add a record that did not come before."""
        name = record.host_id, record.agent_epoch, record.record_type, record.seq
        if name in self._seen:
            return
        self._seen[name] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self.pairing.feed(record)
        self._newest_ns = max(self._newest_ns, record.time_received_ns)

    def over(self) -> list[Biflow]:
        """Connections that are over, looked for ten times in the quiet time."""
        if self._newest_ns < self._due_ns:
            return []
        self._due_ns = self._newest_ns + self._quiet_ns // 10
        return self.pairing.expire(self._newest_ns - self._quiet_ns)


def read(message: ConsumerRecord) -> FlowRecord:
    """Read a flow record or an announcement; any other value is an error, with its place."""
    place = f"{message.topic}, partition {message.partition}, offset {message.offset}"
    try:
        record = decode(message.value or b"")
    except DecodeError as err:
        raise DecodeError(f"{place}: {err}") from err
    if not isinstance(record, FlowRecord):
        raise DecodeError(f"{place}: not a flow record")
    return record


def line(biflow: Biflow) -> str:
    """Return a connection as JSON."""
    return json.dumps(
        {
            "start_ns": biflow.time_flow_start_ns,
            "proto": biflow.proto,
            "src_addr": str(biflow.source),
            "src_port": biflow.src_port,
            "dst_addr": str(biflow.destination),
            "dst_port": biflow.dst_port,
            "evidence": biflow.evidence,
            "forward": amount(biflow.forward),
            "reverse": amount(biflow.reverse),
        }
    )


def amount(uniflow: Uniflow | None) -> dict[str, int]:
    """Packets and IP octets of a direction."""
    if uniflow is None:
        return {"packets": 0, "bytes": 0}
    return {"packets": uniflow.packets, "bytes": uniflow.bytes}


async def main(arguments: argparse.Namespace) -> None:
    """Read until SIGINT, or with ``--once`` until what is there now was read."""
    quiet_ns = int(arguments.quiet * SECOND_NS)
    partitions: dict[int, Partition] = defaultdict(lambda: Partition(quiet_ns))
    consumer = AIOKafkaConsumer(
        *arguments.topic or TOPICS,
        bootstrap_servers=arguments.brokers,
        auto_offset_reset="earliest",
    )
    async with consumer:
        ends: dict[TopicPartition, int] = {}
        if arguments.once:
            ends = await consumer.end_offsets(consumer.assignment())
        while not arguments.once or await unread(consumer, ends):
            batches: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=1_000)
            for place, messages in batches.items():
                partition = partitions[place.partition]
                for message in messages:
                    partition.add(read(message))
                    for biflow in partition.over():
                        print(line(biflow), flush=True)
    for partition in partitions.values():
        for biflow in partition.pairing.flush():
            print(line(biflow), flush=True)
    report([partition.pairing for partition in partitions.values()])


async def unread(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    """Whether something before these ends was not read yet."""
    return any([await consumer.position(place) < end for place, end in ends.items()])


def report(pairings: list[BiflowPairing]) -> None:
    """Report what belongs to no connection."""
    records = sum(each.aggregated_records for each in pairings)
    if records:
        packets = sum(each.aggregated_packets for each in pairings)
        print(f"{records} aggregated records with {packets} packets left out", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print connections, with both directions.")
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="HOST:PORT[,HOST:PORT...]")
    parser.add_argument(
        "--topic", action="append", help=f"may be repeated (default: {', '.join(TOPICS)})"
    )
    parser.add_argument(
        "--quiet", type=float, default=120, help="seconds, two intervals or more (default: 120)"
    )
    parser.add_argument("--once", action="store_true", help="end at the topics' present end")
    try:
        asyncio.run(main(parser.parse_args()))
    except FlowstreamError as err:
        sys.exit(str(err))
    except KeyboardInterrupt:
        pass
