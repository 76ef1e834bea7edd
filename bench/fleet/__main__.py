"""The command ``python -m bench.fleet``: write a fleet's topics and what they must say."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.fleet.hosts import Fleet
from bench.fleet.publish import FleetPublisher
from flowstream.sink import open_sink


def main() -> int:
    """Publish, write the truth as JSON, print sums and speed."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--flows", type=int, default=200, help="per host and interval")
    parser.add_argument("--intervals", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--to", required=True, metavar="URL", help="kafka://HOST:PORT, file:DIR")
    parser.add_argument("--topic-prefix", default="flowstream")
    parser.add_argument("--format", choices=("json", "msgpack"), default="json")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--truth", type=Path, default=Path("truth.json"), metavar="FILE")
    options = parser.parse_args()
    try:
        fleet = Fleet(options.hosts, options.flows, options.intervals, options.seed)
    except ValueError as err:
        parser.error(str(err))
    publisher = FleetPublisher(
        fleet,
        lambda outcomes: open_sink(
            options.to,
            outcomes,
            partitions=options.partitions,
            record_format=options.format,
        ),
        options.topic_prefix,
        options.format,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    count = uvloop.run(publisher.publish())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    truth = publisher.truth.as_json()
    options.truth.write_text(json.dumps(truth), encoding="utf-8")
    _show(truth)
    print(
        f"{count:,} records of {options.hosts:,} hosts in {wall:.1f} s: {count / wall:,.0f} "
        f"records/s, {cpu / count * 1e6:.1f} µs CPU a record, generating included"
    )
    return 0


def _show(truth: dict[str, Any]) -> None:
    """Print the sums of every prefix, then of the hosts that lost something."""
    rows = [*truth["prefixes"].items(), *((h, truth["hosts"][h]) for h in truth["lossy"])]
    for name, sums in rows:
        missing = truth["missing"].get(name, 0)
        print(
            f"{name:<34}{sums['records']:>11,} records {sums['packets']:>15,} packets "
            f"{sums['bytes']:>20,} octets" + (f", {missing} missing" if missing else "")
        )


if __name__ == "__main__":
    sys.exit(main())
