"""Top talkers per 10 seconds by Bytewax, from the JSON topic.

::

    python bytewax_top_talkers.py --brokers 127.0.0.1:9092

A window is printed when it is over, --wait seconds after its end: one JSON line
per talker, the largest first. A record that comes later still is printed as a
line of its own, with "late": records are deltas, so it may just be added. With
--once the program ends when the topic is read. A value that is not a flow record
ends it with topic, partition and offset.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.kafka import operators as kop
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bytewax.connectors.kafka import KafkaSourceMessage

Record = dict[str, Any]

NEEDED = {
    "host_id": str,
    "agent_epoch": int,
    "seq": int,
    "time_flow_end_ns": int,
    "flow_direction": int,
    "src_addr": str,
    "packets": int,
    "bytes": int,
}
"""Fields that the program needs, and their types."""

WINDOW_S = 10
INGRESS = 0
"""A packet that a host forwards is seen again going out: ingress counts it once."""
EPOCH = datetime.fromtimestamp(0, UTC)
REMEMBERED = 100_000
"""Records per run among which a repeated one is found."""


@dataclass
class Seen:
    """The last sequence numbers of a run."""

    seqs: set[int] = field(default_factory=set)
    order: deque[int] = field(default_factory=deque)

    def add(self, seq: int) -> bool:
        """Whether it is new."""
        if seq in self.seqs:
            return False
        self.seqs.add(seq)
        self.order.append(seq)
        if len(self.order) > REMEMBERED:
            self.seqs.remove(self.order.popleft())
        return True


@dataclass
class Talkers:
    """Sums of a window by source."""

    packets: Counter[str] = field(default_factory=Counter)
    octets: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> Talkers:
        """Add a record, which is a delta."""
        self.packets[record["src_addr"]] += record["packets"]
        self.octets[record["src_addr"]] += record["bytes"]
        return self

    def merge(self, other: Talkers) -> Talkers:
        """Add the sums of another window."""
        self.packets += other.packets
        self.octets += other.octets
        return self

    def lines(self, window: int, top: int, **more: object) -> Iterator[str]:
        """Return the largest as JSON lines."""
        for source in sorted(self.octets, key=lambda each: (-self.octets[each], each))[:top]:
            sums = {"packets": self.packets[source], "bytes": self.octets[source]}
            yield json.dumps({"start": window * WINDOW_S, "src_addr": source, **sums, **more})


def parse(message: KafkaSourceMessage[Any, Any]) -> Record:
    """Return the record of a message; ValueError names the place of a value that is none."""
    try:
        record: Record = json.loads(message.value)
        readable = (
            record["record_type"] == 1
            and record["schema_version"] == 1
            and all(isinstance(record[name], kind) for name, kind in NEEDED.items())
        )
    except (KeyError, TypeError, ValueError):
        readable = False
    if not readable:
        place = f"{message.topic}, partition {message.partition}, offset {message.offset}"
        raise ValueError(f"{place}: not a JSON flow record of schema version 1")
    return record


def run_of(record: Record) -> str:
    """Name the run of an agent."""
    return f"{record['host_id']} {record['agent_epoch']}"


def new_only(seen: Seen | None, record: Record) -> tuple[Seen, Record | None]:
    """Pass on a record that was not seen before."""
    seen = seen or Seen()
    return seen, record if seen.add(record["seq"]) else None


def dataflow(args: argparse.Namespace) -> Dataflow:
    """Topic, without duplicates, into windows by the time of the last packet."""
    flow = Dataflow("top_talkers")
    topic = kop.input(
        "topic", flow, brokers=[args.brokers], topics=[args.topic], tail=not args.once
    )
    op.raises("unreadable", topic.errs)
    records = op.map("parse", topic.oks, parse)
    ingress = op.filter("ingress", records, lambda record: record["flow_direction"] == INGRESS)
    by_run = op.key_on("by_run", ingress, run_of)
    once = op.filter_map_value(
        "new", op.stateful_map("seen", by_run, new_only), lambda record: record
    )
    # One clock for all sources: a window is over for all of them at once.
    together = op.key_on("together", once, lambda _: "all")
    together = op.map_value("record", together, lambda keyed: keyed[1])
    windows = win.fold_window(
        "window",
        together,
        win.EventClock(
            lambda record: EPOCH + timedelta(microseconds=record["time_flow_end_ns"] // 1000),
            timedelta(seconds=args.wait),
        ),
        win.TumblingWindower(timedelta(seconds=WINDOW_S), EPOCH),
        Talkers,
        Talkers.add,
        Talkers.merge,
    )
    over = op.flat_map("over", windows.down, lambda each: each[1][1].lines(each[1][0], args.top))
    late = op.flat_map(
        "late",
        windows.late,
        lambda each: Talkers().add(each[1][1]).lines(each[1][0], 1, late=True),
    )
    op.output("print", op.merge("lines", over, late), StdOutSink())
    return flow


def main() -> None:
    """Run until interrupted, or once."""
    parser = argparse.ArgumentParser(description="Top talkers per 10 seconds.")
    parser.add_argument("--brokers", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--topic", default="flowstream.flows")
    parser.add_argument("--wait", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    parser.add_argument("--once", action="store_true", help="end when the topic is read")
    run_main(dataflow(parser.parse_args()))


if __name__ == "__main__":
    main()
