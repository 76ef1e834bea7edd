"""flowstream top without a screen: tables and documents of recordings and of a cluster."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.agent import FLOWSTREAM
from support.outcomes import Account
from support.pipes import closed_after_a_line
from support.published import ANNOUNCEMENTS, FLOWS, LOST, Published, publish

from flowstream.audit import audit
from flowstream.cli.main import main
from flowstream.messages import MessageBatch
from flowstream.reading import read
from flowstream.segments.sink import SegmentSink
from flowstream.testing import FlowFactory

if TYPE_CHECKING:
    from broker import Broker

BOTH = ((3, 0), (5, 1))


def document(capfd, *args, status=0):
    assert main(["top", *map(str, args), "--json"]) == status
    return json.loads(capfd.readouterr().out)


def record(directory, values, topic="flowstream.flows"):
    """Write values into a recording with this topic alone."""

    async def run():
        sink = SegmentSink(directory, Account(), partitions=1)
        await sink.start([topic])
        batch = MessageBatch(topic, 0, [0] * len(values), [b"key"] * len(values), values)
        await sink.send(batch)
        await sink.flush(60)
        await sink.close(5)

    asyncio.run(run())


@pytest.mark.parametrize("record_format", ["json", "msgpack", "protobuf", "avro"])
def test_the_sums_of_a_recording_are_the_audits(tmp_path, capfd, record_format):
    asyncio.run(publish(f"file:{tmp_path}/run", record_format, Published(record_format, BOTH)))
    found = document(capfd, tmp_path / "run", "--from", "start", "--rows", 200)
    (run,) = asyncio.run(audit(f"{tmp_path}/run")).runs
    total = {
        "l2_bytes": sum(each.flows.l2_bytes for each in run.interfaces),
        "packets": sum(each.flows.packets for each in run.interfaces),
        "records": 2 * FLOWS,
        "new_flows": ANNOUNCEMENTS,
    }
    assert found["total"] == total
    for name, amount in total.items():
        assert sum(row[name] for row in found["rows"]) == amount
    assert found["records_read"] == 2 * FLOWS + ANNOUNCEMENTS
    assert found["records_skipped"] == 0
    seen = {each.if_name: each.seen.packets for each in run.interfaces}
    assert {each["interface"]: each["seen"]["packets"] for each in found["interfaces"]} == seen
    for each in found["interfaces"]:
        assert each["losses"]["overflow_lost"]["packets"] == LOST[0]
        assert each["host"] == "host-a"


def test_a_condition_selects_the_records_that_cat_selects(tmp_path, capfd):
    asyncio.run(publish(f"file:{tmp_path}/run", "msgpack", Published("msgpack", BOTH)))
    where = 'packets > 500 and flow_direction == "egress"'
    chosen = list(read(f"{tmp_path}/run", where=where))
    assert 0 < len(chosen) < FLOWS
    found = document(capfd, tmp_path / "run", "--from", "start", "--where", where)
    assert found["total"]["records"] == len(chosen)
    assert found["total"]["packets"] == sum(record.packets for record in chosen)
    assert found["total"]["new_flows"] == 0
    # All that was read, chosen or not.
    assert found["records_read"] == 2 * FLOWS + ANNOUNCEMENTS


def test_the_plain_table_has_every_amount_exactly(tmp_path, capfd):
    flows = FlowFactory()
    records = [
        flows(src_addr="10.0.0.1", packets=1_009, bytes=1_000_003, l2_bytes=1_014_129),
        flows(src_addr="2001:db8::1", dst_addr="2001:db8::2", packets=7, l2_bytes=331),
        flows(src_addr="10.0.0.3", packets=1, l2_bytes=60),
    ]
    record(tmp_path / "run", flows.values(records))
    arguments = ["top", f"{tmp_path}/run", "--from", "start", "--once", "--rows", "2"]
    assert main(arguments) == 0
    about, _, *table, new_flows, counters = capfd.readouterr().out.splitlines()
    assert about.startswith(f"{tmp_path}/run: 0.0 s, 3 records, newest of 20")
    assert [line.split("  ")[0] for line in table] == [
        *("SOURCE", "10.0.0.1", "2001:db8::1", "1 more row", "all")
    ]
    assert [line.split()[-5:-1] for line in table[1:]] == [
        ["1,014,129", "1,009", "1", "0"],
        ["331", "7", "1", "0"],
        ["60", "1", "1", "0"],
        ["1,014,520", "1,017", "3", "0"],
    ]
    assert (new_flows, counters) == (
        "no topic flowstream.new_flows",
        "no topic flowstream.counters",
    )


def test_bad_values_are_left_out_and_told(tmp_path, capfd):
    flows = FlowFactory()
    good = flows.values(flows.batch(3, packets=5), "msgpack")
    record(tmp_path / "run", [good[0], b"nothing", *good[1:], b"{}"])
    found = document(capfd, tmp_path / "run", "--from", "start")
    assert found["total"]["packets"] == 15
    (note,) = [note for note in found["notes"] if "left out" in note]
    assert note.startswith(
        "2 values are not flow records, and left out: topic flowstream.flows, partition 0, offset"
    )


def test_rows_that_are_too_small_are_others(tmp_path, capfd):
    flows = FlowFactory()
    addresses = [f"10.1.{n // 256}.{n % 256}" for n in range(20_011)]
    records = flows.batch(20_011, src_addr=addresses, packets=range(1, 20_012), l2_bytes=60)
    record(tmp_path / "run", flows.values(records, "msgpack"))
    found = document(capfd, tmp_path / "run", "--from", "start", "--rows", 3)
    assert [row["packets"] for row in found["rows"]] == [20_011, 20_010, 20_009]
    assert found["evicted"] + found["row_count"] == 20_011
    assert found["others"]["records"] == found["evicted"] > 0
    assert found["total"]["packets"] == 20_011 * 20_012 // 2
    assert main(["top", f"{tmp_path}/run", "--from", "start", "--once"]) == 0
    assert f"\n{found['evicted']:,} others " in capfd.readouterr().out


class Reader:
    """``flowstream top --json``, line by line, killed at the end of the block."""

    def __init__(self, *args):
        self.process = subprocess.Popen(
            [*FLOWSTREAM, "top", *map(str, args), "--json"], stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def documents(self):
        return map(json.loads, self.process.stdout)


def published_until(add, reader, amount):
    """Add a batch again and again until documents sum up to an amount; the documents."""
    done = threading.Event()

    def run():
        while not done.wait(0.05):
            add()

    adding = threading.Thread(target=run)
    adding.start()
    found = []
    try:
        for each in reader.documents():
            found.append(each)
            if sum(each["total"]["packets"] for each in found) >= amount:
                return found
    finally:
        done.set()
        adding.join()
    raise AssertionError("top has ended")


def test_a_recording_is_followed_from_its_end(tmp_path):
    async def old():
        await publish(f"file:{tmp_path}/run", "msgpack", Published("msgpack"))

    asyncio.run(old())
    loop = asyncio.new_event_loop()
    sink = SegmentSink(tmp_path / "run", Account(), partitions=1)
    loop.run_until_complete(sink.start(["flowstream.flows"]))
    flows = FlowFactory()

    def add():
        values = flows.values(flows.batch(7, packets=11, src_addr="10.7.7.7"), "msgpack")
        now = time.time_ns() // 1_000_000
        batch = MessageBatch("flowstream.flows", 0, [now] * 7, [b"k"] * 7, values)
        loop.run_until_complete(sink.send(batch))

    with Reader(tmp_path / "run", "--period", 1) as reader:
        found = published_until(add, reader, 3 * 77)
    loop.run_until_complete(sink.close(5))
    loop.close()
    assert {row["key"] for each in found for row in each["rows"]} == {"10.7.7.7"}
    for each in found:
        assert each["total"]["packets"] == 11 * each["records_read"]
        assert each["records_read"] % 7 == 0


def test_a_cluster_is_read_from_now_on_or_from_its_start(broker: Broker, tmp_path, capfd):
    prefix = "top-cluster"
    published = Published("json", BOTH)
    asyncio.run(publish(f"file:{tmp_path}/run", "json", published))
    renamed = ("--rename", f"flowstream={prefix}")
    assert main(["replay", f"{tmp_path}/run", "--to", broker.url, *renamed]) == 0
    capfd.readouterr()
    options = ("--topic-prefix", prefix)
    found = document(capfd, broker.url, *options, "--from", "start", "--by", "protocol")
    packets = int(published.flows["packets"].sum())
    assert found["total"]["packets"] == packets
    assert found["group"] == "protocol"
    (run,) = asyncio.run(audit(broker.url, prefix)).runs
    assert sum(each.flows.packets for each in run.interfaces) == packets
    # Nothing comes: a period without records.
    found = document(capfd, broker.url, *options, "--once", "--period", 1)
    assert (found["total"]["packets"], found["rows"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r", "--period", "0.5"], "--period: '0.5' is not a number of seconds from 1 to 3600"),
        (["r", "--rows", "0"], "--rows: '0' is not a whole number from 1 to 8192"),
        (["r", "--by", "mac"], "--by: invalid choice: 'mac'; use source, destination, "),
        (["r", "-i", "eth0"], "--interface: is for top without a URL; leave one of them out"),
        (["--from", "start"], "--from: is for a URL; without one there is no earlier record"),
        (["r", "--once", "--where", "packet > 9"], "names packet, which is not a field; did you"),
        (["r"], "top needs a terminal; use --once or --json"),
        (["a:1", "--once"], "'a:1' has no scheme; use kafka://a:1, or file:a:1 for a directory"),
        (["--user", "nobody-at-all", "--once"], "--user: no user 'nobody-at-all' on this host"),
    ],
)
def test_mistakes_are_named(arguments, message, capfd):
    assert main(["top", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


def test_a_recording_that_is_not_there_is_one_line(tmp_path, capfd):
    assert main(["top", f"{tmp_path}/none", "--once"]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"flowstream: error: {tmp_path}/none: No such file or directory")
    assert output.err.count("\n") == 1


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    asyncio.run(publish(f"file:{tmp_path}/run", "msgpack", Published("msgpack")))
    line = closed_after_a_line("top", f"{tmp_path}/run", "--period", "1", "--json")
    assert json.loads(line)["records_read"] == 0
