"""flowstream cat and flowstream.reading: records of recordings and topics, in any format."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.copies import Content, batch_of
from support.outcomes import Account
from support.pipes import closed_after_a_line
from support.published import FLOWS, Published, publish
from support.records import random_flows

from flowstream.cli.main import main
from flowstream.errors import DecodeError, SourceError, UsageError
from flowstream.kafka.sink import KafkaSink
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.reading import read
from flowstream.reading.columnar import json_values
from flowstream.reading.times import unix_ms
from flowstream.records import FlowRecord, RecordType, decode, encode, to_dict
from flowstream.segments.sink import SegmentSink

if TYPE_CHECKING:
    from pathlib import Path

    from broker import Broker

FORMATS = ["json", "msgpack", "protobuf", "avro"]
TOPIC = "flowstream.flows"
BEGIN_MS = 1_700_000_000_000


def write(directory, values, *, begin_ms=BEGIN_MS, partitions=1, topic=TOPIC):
    """A message each second."""

    async def run():
        sink = SegmentSink(directory, Account(), partitions=partitions)
        await sink.start([topic])
        for number, value in enumerate(values):
            content = Content(begin_ms + 1000 * number, b"key", value)
            await sink.send(batch_of(topic, number % partitions, [content]))
        await sink.flush(60)
        await sink.close(5)

    asyncio.run(run())


def flow_values(record_format="msgpack"):
    published = Published(record_format)
    return [value for topic, value in published.values if topic == TOPIC]


@pytest.fixture
def run_recording(tmp_path):
    """Recording of a run in MessagePack."""
    asyncio.run(publish(f"file:{tmp_path}/run", "msgpack", Published("msgpack")))
    return tmp_path / "run"


def printed(capfdbinary, *args, status=0):
    assert main(["cat", *map(str, args)]) == status
    return capfdbinary.readouterr().out


@pytest.mark.parametrize("record_format", FORMATS)
def test_json_lines_have_every_field_exactly(tmp_path, capfdbinary, record_format):
    values = flow_values(record_format)
    write(tmp_path / "run", values)
    lines = printed(capfdbinary, tmp_path / "run").splitlines()
    assert len(lines) == FLOWS
    host = "" if record_format == "msgpack" else "host-a"
    assert lines == [encode(decode(value), "json", host=host) for value in values]
    # All of these are what an agent publishes as JSON.
    published = flow_values("json")
    if host:
        assert lines == published
    assert [decode(line) for line in lines] == [decode(value) for value in published]


def test_several_topics_and_prefixes(run_recording, capfdbinary):
    topics = [f"flowstream.{name}" for name in ("flows", "new_flows", "counters")]
    options = [word for topic in topics for word in ("--topic", topic)]
    lines = printed(capfdbinary, run_recording, *options).splitlines()
    kinds = [decode(line).record_type for line in lines]
    assert [kinds.count(kind) for kind in RecordType] == [31, 13, 2]
    for path in run_recording.iterdir():
        if path.is_dir():
            path.rename(path.with_name(path.name.replace("flowstream", "other", 1)))
    assert printed(capfdbinary, run_recording, "--topic-prefix", "other").count(b"\n") == FLOWS


def test_csv_has_the_same_fields(run_recording, capfdbinary):
    rows = list(
        csv.DictReader(
            printed(capfdbinary, run_recording, "--format", "csv").decode().splitlines()
        )
    )
    records = list(read(str(run_recording)))
    assert [list(row) for row in rows[:1]] == [[*to_dict(records[0]), "community_id"]]
    assert rows == [
        {name: str(value) for name, value in to_dict(record).items()} | {"community_id": ""}
        for record in records
    ]
    options = ("--topic", "flowstream.counters", "--format", "csv")
    lines = printed(capfdbinary, run_recording, *options).decode().splitlines()
    rows = list(csv.DictReader(lines))
    assert json.loads(rows[0]["no_flow"])["non_ip"] == {"packets": 17, "l2_bytes": 1_003}
    assert sorted(row["final"] for row in rows) == ["false", "true"]


def test_parquet_has_the_same_fields_and_signed_integers(run_recording, tmp_path, capfdbinary):
    import pyarrow.parquet as pq

    out = tmp_path / "flows.parquet"
    assert printed(capfdbinary, run_recording, "--format", "parquet", "--output", out) == b""
    rows = pq.read_table(out).to_pylist()
    records = list(read(str(run_recording)))
    assert rows == [to_dict(record) | {"community_id": ""} for record in records]
    assert str(pq.read_schema(out).field("bytes").type) == "int64"
    piped = printed(capfdbinary, run_recording, "--format", "parquet", "--max", 7)
    (tmp_path / "piped").write_bytes(piped)
    assert pq.read_table(tmp_path / "piped").num_rows == 7
    options = ("--topic", "flowstream.counters", "--format", "parquet", "--output", out)
    printed(capfdbinary, run_recording, *options)
    (row, _) = pq.read_table(out).to_pylist()
    assert dict(row["no_flow"])["non_ip"] == {"packets": 17, "l2_bytes": 1_003}


@pytest.mark.parametrize("topic", [TOPIC, "flowstream.counters"])
def test_tables_without_records_have_their_columns(run_recording, tmp_path, capfdbinary, topic):
    import pyarrow.parquet as pq

    none = (run_recording, "--topic", topic, "--where", "seq == 1_000_003")
    (header,) = printed(capfdbinary, *none, "--format", "csv").splitlines()
    (full, *_) = printed(
        capfdbinary, run_recording, "--topic", topic, "--format", "csv"
    ).splitlines()
    assert header == full
    assert printed(capfdbinary, *none) == b""
    out = tmp_path / "none.parquet"
    printed(capfdbinary, *none, "--format", "parquet", "--output", out)
    table = pq.read_table(out)
    assert (table.num_rows, ",".join(table.column_names)) == (0, full.decode())


def test_tables_refuse_two_kinds_of_records(run_recording, capfd):
    options = ["--topic", "flowstream.counters", "--topic", TOPIC, "--format", "csv"]
    assert main(["cat", str(run_recording), *options]) == 2
    err = capfd.readouterr().err
    assert "a flow record among counters records, which have other columns in CSV" in err


def test_selection_by_time_number_and_condition(tmp_path, capfdbinary):
    values = flow_values()
    write(tmp_path / "run", values)
    found = printed(
        capfdbinary, tmp_path / "run", "--since", 1_700_000_003, "--until", 1_700_000_010
    )
    every = printed(capfdbinary, tmp_path / "run").splitlines()
    assert found.splitlines() == every[3:10]
    for time_text in ("2023-11-14T22:13:23Z", "2023-11-14 23:13:23+01:00", "1700000003.000"):
        options = ("--since", time_text, "--max", 2)
        assert printed(capfdbinary, tmp_path / "run", *options).splitlines() == every[3:5]
    half = sorted(decode(value).packets for value in values)[FLOWS // 2]
    options = ("--where", f'packets >= {half} and proto == "tcp"', "--max", 5)
    expected = [line for line in every if json.loads(line)["packets"] >= half]
    assert printed(capfdbinary, tmp_path / "run", *options).splitlines() == expected[:5]
    assert printed(capfdbinary, tmp_path / "run", "--where", "dst_port == 444") == b""


def test_relative_times_and_bad_ones():
    assert unix_ms("90s", 1_000_000) == 910_000
    assert unix_ms("2h", 10_000_000) == 2_800_000
    assert unix_ms("0s", 7) == 7
    assert unix_ms("1700000000.1239", 0) == 1_700_000_000_123
    assert unix_ms("1969-12-31T23:59:59.5Z", 0) == -500
    now = datetime.now(UTC).astimezone()
    assert unix_ms(now.replace(tzinfo=None).isoformat(), 0) == int(now.timestamp() * 1000)
    assert unix_ms("10", 0) == 10_000
    for text in ("yesterday", "", "1700000000000000000", "2023-13-01", "10w", "-5m"):
        with pytest.raises(UsageError, match="is not a time; use RFC 3339, Unix seconds"):
            unix_ms(text, 0)


def test_bad_value_is_an_error_after_everything_before_it(tmp_path, capfdbinary):
    values = flow_values()
    write(tmp_path / "run", [*values[:5], b"bad", *values[5:], b""])
    assert main(["cat", str(tmp_path / "run")]) == 1
    out, err = capfdbinary.readouterr()
    assert out.count(b"\n") == 5
    assert err.startswith(b"flowstream: error: topic flowstream.flows, partition 0, offset 5: ")
    assert printed(capfdbinary, tmp_path / "run", "--max", 5).count(b"\n") == 5

    assert main(["cat", str(tmp_path / "run"), "--skip-bad"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.count(b"\n") == FLOWS
    assert err.startswith(
        b"flowstream: warning: 2 values are not records, and left out: "
        b"topic flowstream.flows, partition 0, offset 5: not a record: "
    )


def test_output_file_and_its_mistakes(run_recording, tmp_path, capfdbinary):
    out = tmp_path / "out.json"
    assert printed(capfdbinary, run_recording, "--output", out) == b""
    whole = out.read_bytes()
    assert whole.count(b"\n") == FLOWS
    # A mistake leaves it as it is.
    assert main(["cat", str(run_recording), "--topic", "none", "--output", str(out)]) == 1
    says = b"no topic none in this recording; its topics: flowstream.counters, flowstream.flows, "
    assert says in capfdbinary.readouterr().err
    assert out.read_bytes() == whole
    assert main(["cat", str(run_recording), "--output", str(tmp_path / "no" / "out")]) == 1
    assert b"No such file or directory; use a file" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--where", "dst_prot == 1"], "did you mean dst_port?"),
        (["--since", "soon"], "'soon' is not a time"),
        (["--max", "0"], "argument --max: '0' is not a whole number from 1 on"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--follow", "--until", "0s"], "--until: --follow has no end"),
    ],
)
def test_mistakes_in_options(run_recording, capfd, options, says):
    assert main(["cat", str(run_recording), *options]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_closed_pipe_is_quiet(tmp_path):
    write(tmp_path / "run", flow_values() * 101)
    line = closed_after_a_line("cat", str(tmp_path / "run"))
    assert line.startswith(b'{"record_type":1,')


def test_read_in_one_line(run_recording):
    records = list(read(str(run_recording), where="dst_port == 443", limit=7))
    assert len(records) == 7
    assert all(isinstance(record, FlowRecord) for record in records)
    topics = ["flowstream.counters", "flowstream.new_flows"]
    assert len(list(read(str(run_recording), topic=topics))) == 2 + 13
    with pytest.raises(SourceError, match="no topic none"):
        next(read(str(run_recording), topic="none"))
    with pytest.raises(UsageError, match="not a field"):
        read(str(run_recording), where="x == 1")


def test_read_stops_where_a_value_is_bad(tmp_path):
    write(tmp_path / "run", [*flow_values()[:3], b"bad"])
    records = read(str(tmp_path / "run"))
    for _ in range(3):
        next(records)
    with pytest.raises(DecodeError, match="partition 0, offset 3: not a"):
        next(records)
    with pytest.warns(UserWarning, match=r"1 value is not a record, and left out: .* offset 3:"):
        assert len(list(read(str(tmp_path / "run"), skip_bad=True))) == 3


SIZE = FLOW_RECORD.itemsize
VALID = np.concatenate([random_flows(3, seed=1), random_flows(2, seed=2)], dtype=FLOW_RECORD)
VALUES = VALID.view(f"V{SIZE}").tolist()


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=3
    ),
    rewritten=st.sets(st.sampled_from(["etype", "src_addr", "if_name", "src_mac", "packets"])),
    octets=st.binary(min_size=SIZE, max_size=SIZE),
)
def test_columns_give_the_same_lines_as_records(changes, rewritten, octets):
    records = VALID.copy()
    for name in rewritten:
        records[name] = np.frombuffer(octets, FLOW_RECORD)[name]
    values = [bytearray(value) for value in records.view(f"V{SIZE}").tolist()]
    for index, position, octet in changes:
        values[index][position] = octet
    found = json_values([bytes(value) for value in values])
    if found is not None:
        assert found == [encode(decode(bytes(value)), "json") for value in values]
    if not changes and not rewritten:
        assert found is not None


def test_without_numpy_the_lines_are_the_same(run_recording):
    code = (
        "import sys; sys.modules['numpy'] = None; "
        "from flowstream.cli.main import main; sys.exit(main())"
    )
    lines = [
        subprocess.run(
            [*start, "cat", str(run_recording)], capture_output=True, check=True, timeout=60
        ).stdout
        for start in ([sys.executable, "-c", code], [sys.executable, "-m", "flowstream"])
    ]
    assert lines[0] == lines[1]
    assert lines[0].count(b"\n") == FLOWS


def test_missing_parquet_library_is_named(run_recording):
    code = (
        "import sys; sys.modules['pyarrow'] = None; "
        "from flowstream.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "cat", str(run_recording), "--format", "parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--format parquet requires: pip install 'flowstream[parquet]'" in done.stderr


async def produce(broker: Broker, topic: str, values, begin_ms: int) -> None:
    sink = KafkaSink(broker.cluster, Account(), partitions=3)
    await sink.start([topic])
    for number, value in enumerate(values):
        content = Content(begin_ms + 1000 * number, b"key", value)
        await sink.send(batch_of(topic, number % 3, [content]))
    await sink.flush(60)
    await sink.close(5)


def test_topic_of_a_broker_since_a_time(broker: Broker, tmp_path: Path, capfdbinary):
    topic = f"cat-{tmp_path.name}"
    values = flow_values("protobuf")
    now_ms = time.time_ns() // 1_000_000
    asyncio.run(produce(broker, topic, values, now_ms - 1000 * FLOWS))
    seqs = {decode(value).seq: place for place, value in enumerate(values)}
    options = (broker.url, "--topic", topic)
    every = printed(capfdbinary, *options).splitlines()
    assert {decode(line).seq for line in every} == set(seqs)
    since = (now_ms - 1000 * 10) / 1000
    some = printed(capfdbinary, *options, "--since", f"{since:.3f}").splitlines()
    assert sorted(seqs[decode(line).seq] for line in some) == list(range(FLOWS - 10, FLOWS))
    # Nothing is that new.
    assert printed(capfdbinary, *options, "--since", f"{now_ms / 1000 + 60:.3f}") == b""
    assert len(list(read(broker.url, topic=topic, since="1h", limit=11))) == 11


def test_follow_prints_at_once_what_arrives(broker: Broker, tmp_path: Path):
    topic = f"follow-{tmp_path.name}"
    values = flow_values()
    now_ms = time.time_ns() // 1_000_000
    asyncio.run(produce(broker, topic, values[:5], now_ms - 60_000))
    command = [sys.executable, "-m", "flowstream", "cat", broker.url, "--topic", topic, "--follow"]
    command += ["--since", "10s", "--max", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as cat:
        assert cat.stdout
        os.set_blocking(cat.stdout.fileno(), False)
        lines: list[bytes] = []
        deadline = time.monotonic() + 60
        # Of messages that come after it began: those that were there are too old.
        for value in [*values[5:], *values[5:]] * 10:
            asyncio.run(produce(broker, topic, [value], time.time_ns() // 1_000_000))
            lines += cat.stdout.readlines()
            if cat.poll() is not None or time.monotonic() > deadline:
                break
        assert cat.wait(60) == 0
        lines += cat.stdout.readlines()
    assert len(lines) == 3
    assert not {decode(line).seq for line in lines} & {decode(value).seq for value in values[:5]}
