"""The records that the tests of examples/ read, their sums, and how the programs are run."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from broker import Broker

from bench.fleet.check import ENGINES
from flowstream.messages import Message
from flowstream.records import FlowRecord
from flowstream.testing.factory import FlowFactory
from flowstream.testing.replayed import BrokerTopics
from support import agent, capture
from support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

TOP = 9
"""More than there are talkers in a window."""

(GOOD,) = FlowFactory().values([FlowFactory()()])
BAD: dict[str, bytes | None] = {
    "tombstone": None,
    "no JSON": b"no record",
    "other names": FlowFactory().values([FlowFactory()()], names="ecs")[0],
    "no packets": GOOD.replace(b'"packets":1,', b""),
    "no direction": GOOD.replace(b',"flow_direction":0', b""),
    "packets are no number": GOOD.replace(b'"packets":1,', b'"packets":"one",'),
    "later version": GOOD.replace(b'"schema_version":1,', b'"schema_version":2,'),
    "unknown type": GOOD.replace(b'"record_type":1,', b'"record_type":4,'),
}
"""Values that are not records of this version: none of them may be passed over."""
assert GOOD not in BAD.values()


class Published(NamedTuple):
    """Where the records are, all of them twice, and what their sums must be.

    ``packets`` are those that ``flowstream audit`` finds in the published flows. The topics
    with the prefix ``avro`` have the same flows, once, by the schemas of ``registry``.
    """

    broker: Broker
    recording: str
    registry: Registry
    sums: capture.Sums
    windows: set[tuple[int, str, int, int]]
    packets: int


@contextmanager
def published(directory: Path) -> Iterator[Published]:
    """Publish a capture to a broker."""
    file = directory / "captured.pcap"
    sums = capture.write(file)
    recording = f"file:{directory}/recording"
    # A broker's time limit counts from the records' own times.
    with Broker({"log.retention.ms": "-1"}) as broker, Registry() as registry:
        # A capture gives the same run each time: the second one is all duplicates.
        for sink in (recording, broker.url, broker.url):
            _publish(file, sink)
        avro = ("--topic-prefix", "avro", "--format", "avro", "--registry", registry.url)
        _publish(file, broker.url, *avro)
        found = [
            agent.audited(broker.url, prefix)[0]["flows"] for prefix in ("flowstream", "avro")
        ]
        assert found[0] == found[1]
        packets = found[0]["packets"]
        assert packets == capture.PACKETS + 1
        yield Published(broker, recording, registry, sums, windows_of(recording), packets)


def _publish(file: Path, sink: str, *options: str) -> None:
    command = [*agent.FLOWSTREAM, "pcap", str(file), "--sink", sink, *options]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def windows_of(url: str) -> set[tuple[int, str, int, int]]:
    """Sums of the agent's records by window and source, without any engine."""
    packets: Counter[tuple[int, str]] = Counter()
    octets: Counter[tuple[int, str]] = Counter()
    for record in agent.records_of(url, "flowstream.flows"):
        assert isinstance(record, FlowRecord)
        window = record.time_flow_end_ns // 10**10 * 10, str(record.source)
        packets[window] += record.packets
        octets[window] += record.bytes
    return {(*window, packets[window], octets[window]) for window in packets}


def ended(*command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """A program that has ended, however."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYSPARK_PYTHON": str(ENGINES / "python")},
    )


def run(*command: str | Path, timeout: float = 120) -> list[dict[str, Any]]:
    """JSON lines of a program."""
    done = ended(*command, timeout=timeout)
    assert done.returncode == 0, done.stderr
    assert "too late" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def followed(
    *command: str | Path, enough: Callable[[list[dict[str, Any]]], bool], timeout: float = 120
) -> list[dict[str, Any]]:
    """JSON lines of a program that goes on until SIGTERM, which it gets when there are enough."""
    lines: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        deadline = threading.Timer(timeout, process.kill)
        deadline.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(json.loads(line))
                if enough(lines):
                    process.terminate()
                    break
            lines += map(json.loads, process.stdout)
        finally:
            deadline.cancel()
            process.kill()
        process.wait()
        errors.seek(0)
        text = errors.read()
    assert enough(lines), f"{len(lines)} lines are not enough:\n{text}"
    assert "too late" not in text
    return lines


def bad_topic(broker: Broker, value: bytes | None) -> BrokerTopics:
    """A topic whose partition 1 has ``value`` at offset 2."""
    good = [Message("bad", partition, 0, 1, b"", GOOD) for partition in (0, 1, 1)]
    message = Message("bad", 1, 2, 1, b"", value or b"", is_null=value is None)
    return BrokerTopics(broker.url, [*good, message], {})


def check(lines: Iterable[dict[str, Any]], published: Published, *, closed: bool) -> None:
    """The lines are the windows, the largest talker first; the closing one when ``closed``.

    Their sum is the audit's.
    """
    found = [
        tuple(line[name] for name in ("start", "src_addr", "packets", "bytes")) for line in lines
    ]
    assert len(found) == len(set(found))
    expected = {window for window in published.windows if closed or window[0] < capture.CLOSING_S}
    assert set(found) == expected
    assert found == sorted(found, key=lambda line: (line[0], -line[3], line[1]))
    # Nothing but the closing packet may be missing, and only where its window is still open.
    assert sum(count for _, _, count, _ in found) == published.packets - (not closed)
    packets: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    for start, source, count, size in found:
        if start < capture.CLOSING_S:
            packets[source] += count
            octets[source] += size
    assert (packets, octets) == published.sums
