"""The command ``python -m bench.fleet.sizes``: bytes per record in a broker's log.

For every format (behind a registry's prefix where it has one) and every
``compression.type`` of the topic, with few records in a batch and with many.
The agent compresses nothing here: the broker does, batch by batch, which is
also what its CPU time shows.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import uvloop
from broker import Broker

from bench.encoders import prefixes
from bench.fleet.hosts import Fleet
from bench.fleet.publish import FleetPublisher
from bench.measure import cpu_s
from flowstream.kafka.sink import KafkaSink

if TYPE_CHECKING:
    from flowstream.accounting.outcomes import Outcomes
    from flowstream.messages import MessageBatch
    from flowstream.sink import Sink

PARTITIONS: Final = 6
FORMATS: Final = ("msgpack", "json", "protobuf", "avro")
COMPRESSIONS: Final = ("uncompressed", "lz4", "gzip", "zstd")
# Flows per host and interval: batches of one record, of a few dozen, and full ones.
FLEETS: Final = {
    "6": Fleet(300, 6, 1, 7),
    "200": Fleet(60, 200, 5, 7),
    "12,000": Fleet(4, 12_000, 2, 7),
}


def main() -> int:
    """Measure and print, a row per format, filling and compression."""
    heading = ("format", "flows", "compression.type", "bytes/record", "ratio", "broker µs")
    print("{:<10}{:<14}{:<18}{:>13}{:>8}{:>11}".format(*heading))
    with Broker() as broker:
        for record_format in FORMATS:
            for filling, fleet in FLEETS.items():
                # Once more than is shown: Java's warming up is not the codec's price.
                prefix = f"warm-{record_format}-{fleet.flows}"
                _measure(broker, fleet, prefix, record_format, "uncompressed")
                base = None
                for codec in COMPRESSIONS:
                    prefix = f"{codec}-{record_format}-{fleet.flows}"
                    size, cpu = _measure(broker, fleet, prefix, record_format, codec)
                    base = base or size
                    print(
                        f"{record_format:<10}{filling:<14}{codec:<18}{size:>13.1f}"
                        f"{base / size:>8.2f}{cpu:>11.2f}",
                        flush=True,
                    )
    return 0


def _measure(
    broker: Broker, fleet: Fleet, prefix: str, record_format: str, codec: str
) -> tuple[float, float]:
    """Bytes on disk and the broker's µs CPU, per record of the topic flows."""

    def open_with(outcomes: Outcomes[MessageBatch]) -> Sink:
        settings = {"compression.type": codec}
        client = replace(broker.cluster, compression="none")
        return KafkaSink(client, outcomes, partitions=PARTITIONS, topic_settings=settings)

    publisher = FleetPublisher(fleet, open_with, prefix, record_format, prefixes(record_format))
    before = cpu_s(broker.pid)
    uvloop.run(publisher.publish())
    spent = cpu_s(broker.pid) - before
    records = fleet.hosts * fleet.flows * fleet.intervals - sum(publisher.truth.missing.values())
    logs = broker.log_dir.glob(f"{prefix}.flows-*/*.log")
    size = sum(log.stat().st_size for log in logs)
    return size / records, spent / publisher.books.records * 1e6


if __name__ == "__main__":
    sys.exit(main())
