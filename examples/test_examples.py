"""Every example run for real: its sums are the packets that were captured or simulated.

``make examples`` runs this with the engines' own Python.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import capture
from support.examples import BAD, GOOD, TOP, Published, bad_topic, check, ended, run

from bench.fleet.check import ENGINES, KAFKA, SPARK, compare
from flowstream.streams import Stream

if TYPE_CHECKING:
    from broker import Broker

HERE = Path(__file__).parent
HOSTS, FLOWS, INTERVALS = 7, 211, 3
AVRO = "org.apache.spark:spark-avro_2.13:4.2.0"


def test_duckdb(published, tmp_path):
    lines = tmp_path / "flows.jsonl"
    with lines.open("wb") as output:
        for url in (published.recording, published.broker.url):
            command = [sys.executable, HERE / "json_lines.py", url, "flowstream.flows"]
            subprocess.run(command, stdout=output, check=True, timeout=60)
    query = (ENGINES / "python", HERE / "duckdb_top_talkers.py", lines)
    check(run(*query, "--top", str(TOP)), published, closed=True)
    assert len(run(*query, "--top", "1")) == len({start for start, *_ in published.windows})


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_duckdb_names_the_line_that_is_no_record(value, tmp_path):
    lines = tmp_path / "flows.jsonl"
    announced = GOOD.replace(b'"record_type":1,', b'"record_type":2,')
    lines.write_bytes(b"\n".join([GOOD, announced, value or b"null", GOOD]) + b"\n")
    done = ended(ENGINES / "python", HERE / "duckdb_top_talkers.py", lines)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(rf"{lines}.*line 3: not a record|file \"{lines}\".* in line \d", done.stderr)


@pytest.mark.parametrize("value", [None, b"no record"])
def test_json_lines_names_the_place_of_what_is_no_json(published, value):
    with bad_topic(published.broker, value) as topic:
        done = ended(sys.executable, HERE / "json_lines.py", published.broker.url, topic.topic)
    place = f"{topic.topic}, partition 1, offset 2"
    reason = "not JSON; flowstream.records.decode reads all formats"
    assert (done.returncode, done.stderr) == (1, f"{place}: {reason}\n")


def test_connections(published):
    """Both directions of each, all records once."""
    lines = run(*connections(published), "--quiet", "300")
    assert len(lines) == capture.CONNECTIONS + 1
    packets: Counter[str] = Counter()
    for line in lines:
        packets[line["src_addr"]] += line["forward"]["packets"]
        packets[line["dst_addr"]] += line["reverse"]["packets"]
    evidence = Counter(line["evidence"] for line in lines)
    assert evidence == {"first_packet": capture.CONNECTIONS, "none": 1}
    assert packets.pop(capture.CLOSING_SOURCE) == 1
    assert packets == published.sums.packets


def test_connections_are_printed_when_they_are_over(published):
    """Later records are lines of their own, as in less time than an interval; sums stay."""
    lines = run(*connections(published), "--quiet", "1")
    assert len(lines) > capture.CONNECTIONS + 1
    both = Counter(
        {
            name: sum(line[way][name] for line in lines for way in ("forward", "reverse"))
            for name in ("packets", "bytes")
        }
    )
    assert both["packets"] == published.packets
    assert both["bytes"] == published.sums.octets.total() + 28


@pytest.mark.parametrize("name", ["tombstone", "no JSON", "later version", "unknown type"])
def test_connections_names_the_place_of_what_is_no_record(published, name):
    with bad_topic(published.broker, BAD[name]) as topic:
        done = ended(*connections(published), "--topic", topic.topic)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{topic.topic}, partition 1, offset 2: ")
    assert done.stderr.count("\n") == 1


def connections(published: Published) -> list[str | Path]:
    program = HERE / "connections.py"
    return [sys.executable, program, "--once", "--brokers", published.broker.address]


def test_bytewax(published):
    # As long as the topic spans: the partition with the closing record may be read first.
    lines = run(*bytewax(published), "--wait", "4000")
    assert not any("late" in line for line in lines)
    check(lines, published, closed=True)


def test_bytewax_prints_what_comes_late(published):
    """Partitions are read one after the other: without waiting most records come late."""
    lines = run(*bytewax(published), "--wait", "0")
    assert any("late" in line for line in lines)
    packets: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    for line in lines:
        packets[line["src_addr"]] += line["packets"]
        octets[line["src_addr"]] += line["bytes"]
    del packets[capture.CLOSING_SOURCE], octets[capture.CLOSING_SOURCE]
    assert (packets, octets) == published.sums


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_bytewax_names_the_place_of_what_is_no_record(published, value):
    with bad_topic(published.broker, value) as topic:
        done = ended(*bytewax(published), "--topic", topic.topic)
    assert done.returncode != 0
    assert f"{topic.topic}, partition 1, offset 2: not a JSON flow record" in done.stderr


def bytewax(published: Published) -> list[str | Path]:
    program = HERE / "bytewax_top_talkers.py"
    brokers = published.broker.address
    return [ENGINES / "python", program, "--once", "--brokers", brokers, "--top", str(TOP)]


@pytest.mark.timeout(400)  # the first time it fetches what Spark needs for Kafka
def test_spark(published, tmp_path):
    lines = run(
        *(*SPARK, HERE / "spark_top_talkers.py", "--brokers", published.broker.address),
        *("--checkpoint", tmp_path / "checkpoint", "--top", str(TOP), "--once"),
        timeout=300,
    )
    check(lines, published, closed=False)


@pytest.mark.timeout(400)
def test_spark_ends_at_what_is_no_record(published, tmp_path):
    with bad_topic(published.broker, BAD["no packets"]) as topic:
        done = ended(
            *(*SPARK, HERE / "spark_top_talkers.py", "--brokers", published.broker.address),
            *("--checkpoint", tmp_path / "checkpoint", "--once", "--topic", topic.topic),
            timeout=300,
        )
    # spark-submit writes a Python program's errors to its standard output.
    assert f"{topic.topic}, partition 1, offset 2: not a JSON flow record" in done.stdout
    assert done.returncode == 1


@pytest.mark.timeout(400)
def test_spark_views_have_the_records_and_name_the_place_of_what_is_none(published, tmp_path):
    """The definitions in schemas/, of every topic, and the example's reader."""
    result = tmp_path / "result.json"
    good = {f"flowstream.{stream}": f"{stream}.spark" for stream in Stream}
    avro = {f"avro.{stream}": f"{stream}.spark-avro" for stream in Stream}
    number = {topic: published.registry.subjects[f"{topic}-value"][-1] for topic in avro}
    with ExitStack() as topics:
        bad = [topics.enter_context(bad_topic(published.broker, value)) for value in BAD.values()]
        no_avro = topics.enter_context(bad_topic(published.broker, None))
        done = ended(
            *(*SPARK, "--packages", f"{KAFKA},{AVRO}"),
            *(HERE.parent / "tests" / "support" / "spark_views.py",),
            *(published.broker.address, result),
            *(f"{definition}={topic}" for topic, definition in good.items()),
            *(f"{avro[topic]}={topic}={number[topic]}" for topic in avro),
            *(f"flows.spark={topic.topic}" for topic in bad),
            f"flows.spark-avro={no_avro.topic}",
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    for topic in good:
        rows = {(row.pop("partition"), row.pop("offset")): row for row in found[topic]["view"]}
        for place, value in values_of(published.broker, topic).items():
            row = rows.pop(place)
            assert row.pop("event_time")
            assert {name: row[name] for name in value} == value
            assert [each for name, each in row.items() if name not in value] in ([], [None])
        assert not rows
    for topic in avro:
        # The same capture, and so the same records, as in the JSON topic.
        same = values_of(published.broker, topic.replace("avro", "flowstream")).values()
        expected = {value["seq"]: value for value in same}
        rows = found[topic]["view"]
        assert sorted(row["seq"] for row in rows) == sorted(expected)
        for row in rows:
            assert row["event_time"]
            assert {name: row[name] for name in expected[row["seq"]]} == expected[row["seq"]]
    # All its values are JSON: which is read first is not said.
    assert ": not an Avro record of schema version 1" in found[no_avro.topic]["view"]
    assert len(found["flowstream.flows"]["example"]) == len(found["flowstream.flows"]["view"])
    for kind, topic in zip(BAD, bad, strict=True):
        place = f"{topic.topic}, partition 1, offset 2"
        assert f"{place}: not a JSON record" in found[topic.topic]["view"], kind
        assert f"{place}: not a JSON flow record" in found[topic.topic]["example"], kind


def values_of(broker: Broker, topic: str) -> dict[tuple[int, int], dict[str, Any]]:
    """JSON of a topic by partition and offset."""
    command = ["kcat", "-C", "-q", "-e", "-b", broker.address, "-t", topic, "-f", "%p %o %s\\n"]
    read = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    lines = [line.split(" ", 2) for line in read.stdout.splitlines()]
    return {(int(partition), int(offset)): json.loads(text) for partition, offset, text in lines}


def fleet(broker: Broker, prefix: str, directory: Path) -> dict[str, Any]:
    """Publish a fleet of agents, two of them with losses; return what an audit must find."""
    truth = directory / "truth.json"
    size = ("--hosts", str(HOSTS), "--flows", str(FLOWS), "--intervals", str(INTERVALS))
    to = ("--to", broker.url, "--topic-prefix", prefix, "--truth", str(truth))
    command = [sys.executable, "-m", "bench.fleet", *size, *to]
    subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=HERE.parent)
    found: dict[str, Any] = json.loads(truth.read_text())
    return found


def fleet_audit(
    broker: Broker, prefix: str, directory: Path
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the audit over a fleet: how it ended and what it found."""
    to = directory / "result.json"
    job = (*SPARK, HERE / "fleet_audit_spark.py", "--brokers", broker.address)
    done = ended(*job, "--topic-prefix", prefix, "--to", to, timeout=300)
    assert to.exists(), done.stderr
    (result,) = json.loads(to.read_text())
    return done, result


@pytest.mark.timeout(400)
def test_fleet(published, tmp_path):
    truth = fleet(published.broker, "fleet", tmp_path)
    done, result = fleet_audit(published.broker, "fleet", tmp_path)
    assert compare(result, truth) == []
    # Not two empty fleets that are equal. One host restarts its agent half-way.
    assert result["runs"] == HOSTS + 1
    assert len(truth["hosts"]) == HOSTS
    assert len(truth["lossy"]) == 2
    summed = sum(row["records"] for row in truth["hosts"].values())
    (refused,) = truth["missing"].values()
    assert summed == HOSTS * FLOWS * INTERVALS - refused
    assert (done.returncode, "holds" in done.stdout) == (0, True)


@pytest.mark.timeout(400)
def test_fleet_audit_finds_what_is_repeated_and_what_is_made_up(published, tmp_path):
    truth = fleet(published.broker, "forged", tmp_path)
    record = flow_of(published.broker, "forged.flows", "host-000001")
    made_up = record | {"seq": 1_000_003}
    produce(published.broker, "forged.flows", record, made_up)
    done, result = fleet_audit(published.broker, "forged", tmp_path)
    # The equation, a gap where none was written, a duplicate, and that host is not lossy.
    assert len(compare(result, truth)) == 5
    (broken,) = result["equation_broken"]
    names = ("host_id", "if_index", "flow_direction", "packets_off", "l2_bytes_off")
    assert [broken[name] for name in names] == [
        *(record["host_id"], record["if_index"], 0, -record["packets"], -record["l2_bytes"])
    ]
    (gap,) = (row for row in result["sequences"] if row["host_id"] == record["host_id"])
    assert gap["duplicates"] == 1
    assert gap["missing"] == made_up["seq"] - FLOWS * INTERVALS
    assert (done.returncode, "DOES NOT HOLD" in done.stdout) == (1, True)


def flow_of(broker: Broker, topic: str, host: str) -> dict[str, Any]:
    """A record of this host."""
    command = ["kcat", "-C", "-q", "-e", "-b", broker.address, "-t", topic]
    read = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    records = map(json.loads, read.stdout.splitlines())
    return next(record for record in records if record["host"] == host)


def produce(broker: Broker, topic: str, *records: dict[str, Any]) -> None:
    """Add records to a topic."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    command = ["kcat", "-P", "-b", broker.address, "-t", topic]
    subprocess.run(command, input=lines, check=True, text=True, timeout=60)
