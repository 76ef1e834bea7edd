"""record and replay: complete copies, early refusals, timing, warnings."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from broker import dump_log
from packets.pcap_files import pcap
from support.copies import Content, batch_of, content
from support.outcomes import Account, eventually, make_batch
from support.pcap_runs import packets
from support.published import Published, publish

from flowstream.audit import audit
from flowstream.cli.main import main
from flowstream.delivery.stdout import StdoutSink
from flowstream.errors import SinkError, SourceError
from flowstream.kafka.admin import partition_counts
from flowstream.kafka.sink import KafkaSink
from flowstream.messages import Message, MessageBatch
from flowstream.recording import copying, record, replay
from flowstream.segments.sink import SegmentSink
from flowstream.segments.source import SegmentSource
from flowstream.source import open_source
from flowstream.urls import SOURCE_FORMS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker import Broker

pytestmark = pytest.mark.anyio

BEGIN_MS = 1_600_000_000_000
ODD = [
    Content(BEGIN_MS, b"key", b"value", (("trace", b"\0\xff"), ("empty", b""), ("null", None))),
    Content(BEGIN_MS - 7, None, b"no key, and earlier"),
    Content(BEGIN_MS + 3, b"deleted", None, (("trace", b"1"), ("trace", b"2"))),
    Content(BEGIN_MS + 3, b"", b""),
]


async def read(url: str, topic: str) -> dict[int, list[Content]]:
    """Everything but the offsets, by partition and in order."""
    found: dict[int, list[Content]] = {}
    async for batch in open_source(url, [topic]).batches():
        for message in batch:
            found.setdefault(message.partition, []).append(content(message))
    return found


async def write(sink: SegmentSink | KafkaSink, topic: str, rows: dict[int, list[Content]]) -> None:
    await sink.start([topic])
    for partition, of_partition in rows.items():
        await sink.send(batch_of(topic, partition, of_partition))
    await sink.flush(60)
    await sink.close(5)


def many(count: int) -> list[Content]:
    return [
        Content(BEGIN_MS + n, b"%d" % n, b"v" * 101, (("n", b"%d" % n),)) for n in range(count)
    ]


async def test_topic_recorded_and_replayed_is_the_same(broker: Broker, tmp_path: Path) -> None:
    topic, rows = f"odd-{tmp_path.name}", {0: ODD, 2: many(7001)}
    await write(KafkaSink(broker.cluster, Account(), partitions=3), topic, rows)
    assert await read(broker.url, topic) == rows
    assert await record(broker.url, [topic], tmp_path / "copy") == 7005
    assert await read(str(tmp_path / "copy"), topic) == rows
    assert await SegmentSource(tmp_path / "copy").sizes() == {topic: [4, 0, 7001]}
    with pytest.raises(SinkError, match=f"already contains topic {topic}; record to another"):
        await record(broker.url, [topic], tmp_path / "copy")

    text = await asyncio.to_thread(dump_log, tmp_path / "copy" / f"{topic}-0" / f"{0:020}.log")
    assert "isvalid: false" not in text
    assert text.count("| offset:") == 4

    # The broker has no topic of the other name: it is created.
    renamed = f"{topic}.again"
    for number in range(3):
        (tmp_path / "copy" / f"{topic}-{number}").rename(tmp_path / "copy" / f"{renamed}-{number}")
    assert await replay(tmp_path / "copy", broker.url) == {renamed: 7005}
    assert await partition_counts(broker.cluster, [renamed], 10) == {renamed: 3}
    assert await read(broker.url, renamed) == rows
    await replay(tmp_path / "copy", broker.url, [renamed], loop=2)
    assert await read(broker.url, renamed) == {n: 3 * of_one for n, of_one in rows.items()}


async def test_too_few_partitions_are_refused_before_anything_is_sent(
    broker: Broker, tmp_path: Path
) -> None:
    small, other = f"small-{tmp_path.name}", f"other-{tmp_path.name}"
    await write(KafkaSink(broker.cluster, Account(), partitions=2), small, {0: many(1)})
    for topic in (small, other):
        rows = {0: many(11), 3: many(1_234)}
        await write(SegmentSink(tmp_path, Account(), partitions=5), topic, rows)
    with pytest.raises(SinkError) as refused:
        await replay(tmp_path, broker.url)
    assert str(refused.value) == (
        f"{broker.url}: topic {small} has 2 partitions and the recording 5: partition 3 from "
        "offset 0 on (1,234 messages) has no counterpart; add partitions, or replay where the "
        "topic does not exist"
    )
    assert await partition_counts(broker.cluster, [small, other], 10) == {
        small: 2,
        other: 0,
    }
    assert await read(broker.url, small) == {0: many(1)}
    assert await replay(tmp_path, broker.url, [other]) == {other: 1_245}


async def test_empty_partitions_need_no_counterpart(broker: Broker, tmp_path: Path) -> None:
    topic = f"empty-{tmp_path.name}"
    await write(KafkaSink(broker.cluster, Account(), partitions=2), topic, {})
    await write(SegmentSink(tmp_path, Account(), partitions=3), topic, {1: many(11)})
    assert await replay(tmp_path, broker.url) == {topic: 11}


async def test_topic_may_have_more_partitions_than_the_recording(
    broker: Broker, tmp_path: Path
) -> None:
    topic = f"wide-{tmp_path.name}"
    await write(KafkaSink(broker.cluster, Account(), partitions=5), topic, {4: many(1)})
    await write(SegmentSink(tmp_path, Account(), partitions=2), topic, {1: many(11)})
    await replay(tmp_path, broker.url)
    assert await read(broker.url, topic) == {1: many(11), 4: many(1)}


async def test_run_of_an_agent_survives_the_round_trip(broker: Broker, tmp_path: Path) -> None:
    prefix = f"agent-{tmp_path.name}"
    await publish(str(f"file:{tmp_path}/run"), "json", Published())
    for path in (tmp_path / "run").iterdir():
        if path.is_dir():
            path.rename(path.with_name(path.name.replace("flowstream", prefix, 1)))
    before = await audit(str(tmp_path / "run"), prefix)
    topics = [f"{prefix}.{name}" for name in ("flows", "new_flows", "counters")]
    assert sorted(await replay(tmp_path / "run", broker.url)) == sorted(topics)
    assert await audit(broker.url, prefix) == before
    await record(broker.url, topics, tmp_path / "again")
    assert await audit(str(tmp_path / "again"), prefix) == before


async def test_copy_of_a_brokers_log_directory_is_replayed(broker: Broker, tmp_path: Path) -> None:
    """Closed and active segments, also without the first ones, as retention leaves them."""
    topic = f"log-{tmp_path.name}"
    sink = KafkaSink(
        broker.cluster,
        Account(),
        partitions=1,
        topic_settings={"segment.bytes": "1048576"},
    )
    await sink.start([topic])
    for first in range(0, 12_007, 1_009):
        await sink.send(make_batch(topic, 0, first, 1_009))
    await sink.flush(60)
    await sink.close(5)
    # The whole directory: other topics, indices, epochs, files of the broker itself.
    # Other tests delete topics meanwhile.
    deleted = shutil.ignore_patterns("*-delete")
    shutil.copytree(broker.log_dir, tmp_path / "data", ignore=deleted)
    directory = tmp_path / "data" / f"{topic}-0"
    segments = sorted(directory.glob("*.log"))
    assert len(segments) >= 3
    assert {path.suffix for path in directory.iterdir()} >= {".log", ".index", ".timeindex"}
    whole = (await read(str(tmp_path / "data"), topic))[0]
    assert (await read(broker.url, topic))[0] == whole
    assert len(whole) == 12 * 1_009

    renamed = tmp_path / "data" / f"{topic}.last-0"
    directory.rename(renamed)
    (renamed / segments[0].name).unlink()
    kept = len(whole) - int(segments[1].stem)
    assert await replay(tmp_path / "data", broker.url, [f"{topic}.last"]) == {
        f"{topic}.last": kept
    }
    assert (await read(broker.url, f"{topic}.last"))[0] == whole[-kept:]


async def test_created_topic_keeps_messages_of_any_age(
    broker_factory: Callable[..., Broker], tmp_path: Path
) -> None:
    """A broker deletes by the messages' own times, and checks soon."""
    strict = broker_factory(**{
        "log.retention.ms": "604800000",
        "log.retention.check.interval.ms": "100",
        "log.initial.task.delay.ms": "0",
    })  # fmt: skip
    await write(SegmentSink(tmp_path, Account(), partitions=1), "replayed", {0: many(11)})
    sink = KafkaSink(strict.cluster, Account(), partitions=1)
    await replay(tmp_path, strict.url)
    await write(sink, "limited", {0: many(11)})
    async with asyncio.timeout(150):
        while not await _emptied(strict.url, "limited"):  # noqa: ASYNC110 - the broker says nothing
            await asyncio.sleep(0.1)
    assert await read(strict.url, "replayed") == {0: many(11)}


async def _emptied(url: str, topic: str) -> bool:
    try:
        return not await read(url, topic)
    except SourceError as err:
        # It was emptied between the request for its offsets and the reading.
        assert "OffsetOutOfRange" in str(err)  # noqa: PT017 - any other is a failure
        return False


async def test_torn_end_is_replayed_up_to_it_with_a_warning(
    broker: Broker, tmp_path: Path
) -> None:
    topic = f"torn-{tmp_path.name}"
    for rows in (many(3), many(5)):
        await write(SegmentSink(tmp_path, Account(), partitions=1), topic, {0: rows})
    segment = tmp_path / f"{topic}-0" / f"{0:020}.log"
    os.truncate(segment, segment.stat().st_size - 1)
    warnings: list[str] = []
    assert await replay(tmp_path, broker.url, warn=warnings.append, loop=2) == {topic: 6}
    assert len(warnings) == 1
    assert f"topic {topic}, partition 0, offset 3: the last batch is cut short" in warnings[0]


async def test_speed_keeps_the_times_between_messages(broker: Broker, tmp_path: Path) -> None:
    topic = f"speed-{tmp_path.name}"
    rows = {
        partition: [Content(BEGIN_MS + at, b"", b"%d" % at) for at in times]
        for partition, times in enumerate([(0, 300, 1_100), (700, 700)])
    }
    await write(SegmentSink(tmp_path, Account(), partitions=2), topic, rows)
    for speed, seconds in ((2.0, 0.55), (10.0, 0.11)):
        begin = time.monotonic()
        await replay(tmp_path, broker.url, speed=speed)
        assert time.monotonic() - begin >= seconds
    assert await read(broker.url, topic) == {n: 2 * of_one for n, of_one in rows.items()}


async def test_partitions_are_interleaved_by_time(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"merge-{tmp_path.name}"
    rows = {
        partition: [Content(BEGIN_MS + at, b"", b"%d" % at) for at in times]
        for partition, times in enumerate([(0, 30, 20, 50), (10, 40), (5, 60)])
    }
    await write(SegmentSink(tmp_path, Account(), partitions=3), topic, rows)
    sent: list[bytes] = []
    monkeypatch.setattr(KafkaSink, "send", lambda _, batch: _append(sent, batch))
    monkeypatch.setattr(KafkaSink, "flush", lambda *_: _append(sent, None))
    await replay(tmp_path, broker.url, speed=1_000_000)
    # 20 follows 30, as in its partition.
    assert sent == [b"0", b"5", b"10", b"30", b"20", b"40", b"50", b"60"]


async def _append(sent: list[bytes], batch: MessageBatch | None) -> None:
    sent += batch.values if batch else []


async def compressed_topic(broker: Broker, topic: str, codec: str) -> None:
    """7 plain messages, then 101 compressed ones, in partition 1 of 2."""
    from confluent_kafka import Producer

    plain = dataclasses.replace(broker.cluster, compression="none")
    await write(KafkaSink(plain, Account(), partitions=2), topic, {1: many(7)})
    producer = Producer({"bootstrap.servers": broker.address, "compression.type": codec})
    for n in range(101):
        producer.produce(topic, b"v" * 997, b"%d" % n, partition=1, headers=[("n", b"%d" % n)])
    assert producer.flush(60) == 0


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
async def test_compressed_batches_are_read(broker: Broker, tmp_path: Path, codec: str) -> None:
    topic = f"{codec}-{tmp_path.name}"
    await compressed_topic(broker, topic, codec)
    shutil.copytree(broker.log_dir / f"{topic}-1", tmp_path / "data" / f"{topic}-1")
    # Still compressed.
    assert b"v" * 997 not in next((tmp_path / "data" / f"{topic}-1").glob("*.log")).read_bytes()
    assert await record(broker.url, [topic], tmp_path / "copy") == 108
    for url in (broker.url, str(tmp_path / "data"), str(tmp_path / "copy")):
        rows = (await read(url, topic))[1]
        assert rows[:7] == many(7)
        assert [(row.key, row.value, row.headers) for row in rows[7:]] == [
            (b"%d" % n, b"v" * 997, (("n", b"%d" % n),)) for n in range(101)
        ]


WITHOUT_CRAMJAM = "import sys; sys.modules['cramjam'] = None\n"
COMMAND = "from flowstream.cli.main import main; sys.exit(main())"
READER = """
import asyncio
from flowstream.errors import MissingExtraError
from flowstream.source import open_source

async def main():
    async for messages in open_source(sys.argv[1], [sys.argv[2]]).batches():
        print(len(messages))

try:
    asyncio.run(main())
except MissingExtraError as err:
    sys.exit(err)
"""


@pytest.mark.parametrize("codec", ["lz4", "snappy", "zstd"])
async def test_missing_codec_library_is_named_with_the_remedy(
    broker: Broker, tmp_path: Path, codec: str
) -> None:
    topic = f"without-{codec}-{tmp_path.name}"
    await compressed_topic(broker, topic, codec)
    data = tmp_path / "data"
    shutil.copytree(broker.log_dir / f"{topic}-1", data / f"{topic}.x-1")

    def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_CRAMJAM + code, *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    says = f"a batch compressed with {codec} requires: pip install 'flowstream[kafka]'"
    done = await asyncio.to_thread(run, READER, broker.url, topic)
    place = f"{broker.url}: topic {topic}, partition 1, offset 7 of 108"
    assert (done.returncode, done.stdout, done.stderr) == (1, "7\n", f"{place}: {says}\n")
    arguments = ("replay", str(data), "--to", broker.url, "-X", "compression.type=none")
    done = await asyncio.to_thread(run, COMMAND, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    place = f"{data}/{topic}.x-1: topic {topic}.x, partition 1, offset 7"
    assert done.stderr.startswith(f"flowstream: error: {place}: {says} (")
    assert done.stderr.count("\n") == 1
    assert await read(broker.url, f"{topic}.x") == {1: many(7)}


async def test_compacted_topic_is_read_with_a_warning(
    broker_factory: Callable[..., Broker], tmp_path: Path
) -> None:
    cleaning = broker_factory(**{"log.cleaner.backoff.ms": "100"})
    topic, url = "compacted", str(tmp_path / "data")
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.001",
        "segment.ms": "100",
    }
    sink = KafkaSink(cleaning.cluster, Account(), partitions=1, topic_settings=settings)
    # 7 keys: the last 7 of 101 remain. Later messages are in a new segment.
    await write(
        sink, topic, {0: [Content(BEGIN_MS, b"%d" % (n % 7), b"%d" % n) for n in range(101)]}
    )
    more = KafkaSink(cleaning.cluster, Account(), partitions=1)
    await more.start([topic])
    async with asyncio.timeout(150):
        for n in itertools.count(1):
            # Later by the messages' own times too; these keys stay.
            later = Content(BEGIN_MS + 1_000 * n, b"later %d" % n, b"")
            await more.send(batch_of(topic, 0, [later]))
            await more.flush(60)
            if len(left := await messages(cleaning.url, topic)) == 7 + n:
                break
            await asyncio.sleep(0.1)
    await more.close(5)
    assert [m.offset for m in left[:7]] == list(range(94, 101))
    cleaning.stop()
    shutil.copytree(cleaning.log_dir, url)
    cleaning.start()
    source = open_source(url, [topic])
    copied = [message async for batch in source.batches() for message in batch]
    assert copied == await messages(cleaning.url, topic)
    (warning,) = source.warnings
    place = f"{url}/{topic}-0: topic {topic}, partition 0"
    assert warning == f"{place}: offsets 0 to 93 missing, 94 in all: compacted, or cut out"

    # A copy has offsets of its own: nothing is missing in it.
    assert await record(cleaning.url, [topic], tmp_path / "copy") == len(copied)
    again = await messages(str(tmp_path / "copy"), topic)
    assert [m.offset for m in again] == list(range(len(copied)))
    assert [content(m) for m in again] == [content(m) for m in copied]
    warnings: list[str] = []
    assert await replay(tmp_path / "data", cleaning.url, warn=warnings.append)
    assert warnings == [warning]


async def messages(url: str, topic: str) -> list[Message]:
    return [message async for batch in open_source(url, [topic]).batches() for message in batch]


async def test_control_batches_are_not_messages(broker: Broker, tmp_path: Path) -> None:
    from confluent_kafka import Producer

    topic = f"marks-{tmp_path.name}"
    await write(KafkaSink(broker.cluster, Account(), partitions=1), topic, {})
    producer = Producer({"bootstrap.servers": broker.address, "transactional.id": topic})
    producer.init_transactions(20)
    for n in range(2):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % n, partition=0)
        producer.commit_transaction(20)
    shutil.copytree(broker.log_dir / f"{topic}-0", tmp_path / "data" / f"{topic}-0")
    for url in (broker.url, str(tmp_path / "data")):
        assert [row.value for row in (await read(url, topic))[0]] == [b"0", b"1"]


async def test_impossible_copies_are_refused(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no topic no-such"):
        await record(broker.url, ["no-such"], tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(SourceError, match="No such file or directory"):
        await replay(tmp_path / "none", broker.url)
    with pytest.raises(SourceError, match="no topic in this recording"):
        await replay(tmp_path, broker.url)
    await write(SegmentSink(tmp_path, Account(), partitions=1), "t", {0: many(1)})
    with pytest.raises(SourceError, match="no topic u in this recording"):
        await replay(tmp_path, broker.url, ["u"])
    with pytest.raises(SinkError, match=r"kafka://127.0.0.1:9: 127.0.0.1:9 .*refused"):
        await replay(tmp_path, "kafka://127.0.0.1:9")
    with pytest.raises(SinkError, match="already contains topic t"):
        await replay(tmp_path, f"file:{tmp_path}")
    with pytest.raises(SinkError, match="already contains topic t"):
        await record(str(tmp_path), [], tmp_path)


@pytest.mark.parametrize(
    ("command", "url", "says"),
    [
        ("record", "stdout:", "'stdout:' cannot be read back; use kafka://HOST:PORT or a recor"),
        ("record", "", "'file:': use file:DIR"),
        ("record", "http://u:secret@x", "'http://x': user and password in the URL are not supp"),
        ("record", "http://x", f"'http://x': unknown scheme 'http'; use {SOURCE_FORMS}\n"),
        ("record", "kafka://127.0.0.1:9092", "the following arguments are required: --topic, for"),
        ("replay", "127.0.0.1:9092", "has no scheme; use kafka://127.0.0.1:9092, or file:"),
        ("replay", "http://u:secret@x", "'http://x': user and password in the URL are not supp"),
        ("replay", "", "'' has no scheme; use kafka://HOST:PORT"),
        ("replay", "x", "'x' has no scheme; use kafka://HOST:PORT"),
    ],
)
def test_other_urls_are_refused_and_the_form_is_named(
    command: str, url: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, to = (url, str(tmp_path / "copy")) if command == "record" else (str(tmp_path), url)
    assert main([command, given, "--to", to]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert "secret" not in said


async def test_message_that_the_broker_refuses_is_named_with_the_remedy(
    broker: Broker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    topic = f"large-{tmp_path.name}"
    rows = [Content(BEGIN_MS + n, b"", b"x" * 997) for n in range(101)]
    # The broker refuses each of them, also compressed.
    for n in range(60, 97, 3):
        rows[n] = Content(BEGIN_MS + n, b"", os.urandom(2 << 20))
    await write(SegmentSink(tmp_path, Account(), partitions=1), topic, {0: rows})
    capfd.readouterr()
    assert await asyncio.to_thread(main, ["replay", str(tmp_path), "--to", broker.url]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    place = f"topic {topic}, partition 0, offset 60: message_too_large"
    assert re.fullmatch(
        f"flowstream: error: {place}: [0-9]+ messages? could not be written; "
        r"[0-9]+ were before; raise the topics' max\.message\.bytes\n",
        err,
    )


async def test_messages_in_doubt_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is being written when the time is over, the second one waits."""
    monkeypatch.setattr(copying, "FLUSH_TIMEOUT_S", 0.2)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with copying.Copy("replaying", 1_008) as copy:
            sink = StdoutSink(copy)
            await sink.start(["t"])
            messages = [Message("t", 0, n, BEGIN_MS, None, b"v" * 203) for n in range(7, 1_015)]
            await copy.send(sink, messages[:997])
            await copy.send(sink, messages[997:])
            with pytest.raises(SinkError) as ended:
                await copy.finish(sink)
        # Let the thread end before its descriptor does.
        os.close(reader)
        await eventually(lambda: sink.fault is not None)
    assert str(ended.value) == (
        "topic t, partition 0, offset 7: shutdown: 11 messages could not be written, "
        "997 may have been; 0 were before"
    )


async def test_topic_that_deletes_old_messages_is_a_warning(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "days": {"retention.ms": "604800000"},
        "ever": {"retention.ms": "-1"},
        "arrival": {"retention.ms": "604800000", "message.timestamp.type": "LogAppendTime"},
        "compact": {"retention.ms": "604800000", "cleanup.policy": "compact"},
        "long": {"retention.ms": str(1 << 60)},
    }
    for name, own in settings.items():
        topic = f"{name}-{tmp_path.name}"
        sink = KafkaSink(broker.cluster, Account(), partitions=1, topic_settings=own)
        await write(sink, topic, {})
        now = Content(time.time_ns() // 1_000_000, b"", b"now")
        await write(SegmentSink(tmp_path, Account(), partitions=1), topic, {0: [now, *many(3)]})
    assert await asyncio.to_thread(main, ["replay", str(tmp_path), "--to", broker.url]) == 0
    assert capsys.readouterr().err == (
        f"flowstream: warning: topic days-{tmp_path.name}: the oldest message sent is from "
        "2020-09-13, and the topic's retention.ms=604800000 makes the broker delete such messages "
        "soon; set retention.ms=-1 to keep them\n"
    )


async def test_capture_into_a_topic_that_deletes_old_messages_is_a_warning(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture, prefix = tmp_path / "a.pcap", f"old-{tmp_path.name}"
    capture.write_bytes(pcap(packets(5)))
    settings = {"retention.ms": "86400000"}
    sink = KafkaSink(broker.cluster, Account(), partitions=1, topic_settings=settings)
    await write(sink, f"{prefix}.flows", {})
    # In a process of its own: it gives up root.
    command = [sys.executable, "-m", "flowstream", "pcap", str(capture), "--sink", broker.url]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, "--topic-prefix", prefix],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    # The other topics are created, without a time limit.
    assert done.stderr == (
        f"flowstream: warning: topic {prefix}.flows: the oldest message sent is from 2017-07-14, "
        "and the topic's retention.ms=86400000 makes the broker delete such messages soon; "
        "set retention.ms=-1 to keep them\n"
        f"5 packets of 1 file in 3 flow records -> {broker.url}\n"
    )


async def test_capture_is_replayed_in_its_own_time(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture, prefix = tmp_path / "a.pcap", f"time-{tmp_path.name}"
    capture.write_bytes(pcap(packets(5)))
    to, options = tmp_path / "a", ["--interval", "1", "--topic-prefix", prefix]
    # In a process of its own: it gives up root.
    command = [sys.executable, "-m", "flowstream", "pcap", str(capture), "--sink", f"file:{to}"]
    await asyncio.to_thread(subprocess.run, [*command, *options], check=True, timeout=60)
    # A little more than four seconds.
    begin = time.monotonic()
    replayed = ["replay", f"file:{to}", "--to", broker.url, "--speed", "5"]
    assert await asyncio.to_thread(main, replayed) == 0
    assert time.monotonic() - begin >= 0.8
    capsys.readouterr()


async def test_command_line(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = f"cli-{tmp_path.name}"
    await write(KafkaSink(broker.cluster, Account(), partitions=1), topic, {0: many(1_009)})

    async def run(*args: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, args)
        return status, *capsys.readouterr()

    copy = str(tmp_path / "copy")
    assert await run("record", broker.url, "--topic", topic, "--to", copy) == (
        0,
        f"1,009 messages of {topic} recorded in {copy}\n",
        "",
    )
    named = f"file:{tmp_path}/named"
    assert await run("record", broker.url, "--topic", topic, "--to", named) == (
        0,
        f"1,009 messages of {topic} recorded in {tmp_path}/named\n",
        "",
    )
    assert await read(named, topic) == await read(copy, topic)
    for wrong in ("kafka://127.0.0.1:1", "stdout:"):
        said = (
            f"flowstream: error: {wrong!r}: a recording is a directory or file; "
            "use PATH or file:PATH\n"
        )
        assert await run("record", broker.url, "--topic", topic, "--to", wrong) == (2, "", said)
        assert await run("replay", wrong, "--to", broker.url) == (2, "", said)
    assert await run("replay", f"file:{copy}", "--to", broker.url, "--loop", "2") == (
        0,
        f"2,018 messages of {topic} sent to {broker.url}\n",
        "",
    )
    assert (await run("replay", copy, "--to", broker.url, "--speed", "max"))[0] == 0
    for option in (["--speed", "0"], ["--speed", "x"], ["--loop", "0"], ["--loop", "-1"]):
        status, out, err = await run("replay", copy, "--to", broker.url, *option)
        assert (status, out) == (2, "")
        assert option[0] in err
    assert len((await read(broker.url, topic))[0]) == 4 * 1_009


def test_message_without_optional_parts() -> None:
    message = Message("t", 0, 0, 0, None, b"v")
    assert content(message) == Content(0, None, b"v", ())


@pytest.mark.parametrize("where", ["recording", "broker"])
async def test_topic_of_announcements_may_be_missing(
    where: str, tmp_path: Path, broker: Broker
) -> None:
    """They carry no packets: the loss equation needs none."""
    await publish(f"file:{tmp_path}/run", "json", Published())
    for path in (tmp_path / "run").glob("flowstream.new_flows-*"):
        shutil.rmtree(path)
    url, prefix = str(tmp_path / "run"), "flowstream"
    if where == "broker":
        prefix = f"without-{tmp_path.name}"
        for path in (tmp_path / "run").glob("flowstream.*"):
            path.rename(path.with_name(path.name.replace("flowstream", prefix, 1)))
        await replay(tmp_path / "run", broker.url)
        url = broker.url
    result = await audit(url, prefix)
    assert result.holds
    (run,) = result.runs
    assert [topic.stream for topic in run.topics] == ["flows", "counters"]
    assert run.notes == [f"{prefix}.new_flows: no such topic: announcements were not checked"]
    # Any other is needed.
    for stream in ("flows", "counters"):
        other = tmp_path / stream
        shutil.copytree(tmp_path / "run", other)
        for path in other.glob("*.counters-*" if stream == "counters" else "*.flows-*"):
            shutil.rmtree(path)
        with pytest.raises(SourceError, match=rf"no topic .*{stream}"):
            await audit(str(other), prefix)
