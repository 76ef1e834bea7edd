"""The directory sink: format, continuation, new segments, safety, failing disks."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import dump_log
from support.outcomes import TIMESTAMP_MS, Account, make_batch, number
from support.users import open_to_all

from flowstream.errors import SinkError, UsageError
from flowstream.segments.sink import SegmentSink
from flowstream.sink import open_sink
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.messages import Message

pytestmark = pytest.mark.anyio

NOBODY = 65534
HERE = Path(__file__).parent


async def record(
    directory: Path, *counts: int, partition: int = 0, first: int = 0, **options: Any
) -> Account:
    """Record batches of these sizes into topic t; return their outcomes."""
    account = Account()
    sink = SegmentSink(directory, account, partitions=2, **options)
    await sink.start(["t"])
    for count in counts:
        await sink.send(make_batch("t", partition, first, count))
        first += count
    await sink.close(60)
    return account


def everything_in(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


async def read(directory: Path, topic: str = "t") -> list[Message]:
    return [m async for batch in open_source(str(directory), [topic]).batches() for m in batch]


async def test_round_trip_keeps_every_record_in_its_partition_and_order(tmp_path: Path) -> None:
    account = Account()
    sink = open_sink(f"file:{tmp_path}/a/b", account, partitions=3, record_format="msgpack")
    await sink.start(["t", "u"])
    assert (sink.partitions("t"), sink.partitions("u")) == (3, 3)
    sent: dict[int, list[int]] = {0: [], 1: [], 2: []}
    first = 0
    for partition, count in [(0, 1009), (1, 1), (2, 7919), (0, 7), (1, 0), (2, 13)]:
        await sink.send(make_batch("t", partition, first, count))
        sent[partition] += range(first, first + count)
        first += count
    await sink.flush(60)
    assert len(account.acknowledged_values) == account.settled == first
    messages = await read(tmp_path / "a" / "b")
    for partition, numbers in sent.items():
        got = [m for m in messages if m.partition == partition]
        assert [number(m.value) for m in got] == numbers
        assert [m.key for m in got] == [n.to_bytes(8, "big") for n in numbers]
        assert [m.offset for m in got] == list(range(len(numbers)))
        assert {m.timestamp_ms for m in got} == {TIMESTAMP_MS}
    assert await read(tmp_path / "a" / "b", "u") == []
    await sink.close(60)
    await sink.close(60)
    await sink.send(make_batch("t", 0, 0, 3))
    assert account.causes == {"shutdown": 3}


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_kafkas_own_tool_reads_the_segments(tmp_path: Path, compression: str) -> None:
    await record(tmp_path, 3001, 7, segment_bytes=400_000, compression=compression)
    segments = sorted((tmp_path / "t-0").iterdir())
    assert len(segments) > 1
    offsets: list[int] = []
    payloads: list[str] = []
    for segment in segments:
        text = await asyncio.to_thread(dump_log, segment)
        assert f"Log starting offset: {int(segment.stem)}" in text
        assert "isvalid: false" not in text
        assert set(re.findall(r"compresscodec: (\w+)", text)) == {compression}
        offsets += map(int, re.findall(r"^\| offset: (\d+)", text, re.MULTILINE))
        payloads += re.findall(r"payload: (\d{12})", text)
    assert offsets == list(range(3008))
    assert list(map(int, payloads)) == list(range(3008))


async def test_continues_a_recording_and_keeps_its_partitions(tmp_path: Path) -> None:
    await record(tmp_path, 101, 13)
    account = Account()
    sink = SegmentSink(tmp_path, account, partitions=7)
    await sink.start(["t"])
    assert sink.partitions("t") == 2
    await sink.send(make_batch("t", 0, 114, 17))
    await sink.close(60)
    messages = await read(tmp_path)
    assert [number(m.value) for m in messages] == [m.offset for m in messages] == list(range(131))


async def test_rolls_to_segments_named_by_their_first_offset(tmp_path: Path) -> None:
    await record(tmp_path, *[97] * 11, segment_bytes=50_000)
    segments = sorted((tmp_path / "t-0").iterdir())
    # Two batches of 97 records, 20 kB each, go into one segment.
    assert [int(path.stem) for path in segments] == [n * 194 for n in range(6)]
    assert max(path.stat().st_size for path in segments) <= 50_000
    await record(tmp_path, 5, first=1067, segment_bytes=50_000)
    assert [number(m.value) for m in await read(tmp_path)] == list(range(1072))


@pytest.mark.parametrize("kept", ["one byte", "half", "all but one byte"])
async def test_torn_last_batch_is_removed_and_the_recording_continued(
    tmp_path: Path, kept: str
) -> None:
    await record(tmp_path, 101)
    segment = tmp_path / "t-0" / f"{0:020}.log"
    whole = segment.stat().st_size
    await record(tmp_path, 13, first=101)
    end = segment.stat().st_size
    size = {"one byte": whole + 1, "half": (whole + end) // 2, "all but one byte": end - 1}[kept]
    os.truncate(segment, size)
    await record(tmp_path, 17, first=101)
    assert [number(m.value) for m in await read(tmp_path)] == list(range(118))


async def test_other_damage_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    await record(tmp_path, 101, 13)
    segment = tmp_path / "t-0" / f"{0:020}.log"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 4
    segment.write_bytes(data)
    with pytest.raises(SinkError, match=r"topic t, partition 0, offset 0: damaged.*another dir"):
        await record(tmp_path, 7)
    assert segment.read_bytes() == data


async def test_second_writer_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    first = SegmentSink(tmp_path, Account(), partitions=1)
    await first.start(["t"])
    second = SegmentSink(tmp_path, Account(), partitions=1)
    with pytest.raises(SinkError, match=f"process {os.getpid()} is writing there"):
        await second.start(["t"])
    await second.close(1)
    await first.close(1)
    await second.start(["t"])
    await second.close(1)


async def test_prepared_recording_is_closed_without_a_start(tmp_path: Path) -> None:
    first = SegmentSink(tmp_path, Account(), partitions=1)
    first.prepare(["t"])
    await first.close(1)
    await record(tmp_path, 3)
    assert len(await read(tmp_path)) == 3


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("notes.txt", False),
        ("t-0/notes.txt", False),
        ("t-0", False),
        ("t-00", True),
        ("etc", True),
    ],
)
async def test_foreign_files_are_named_and_nothing_is_created(
    tmp_path: Path, name: str, directory: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if directory else path.write_text("")
    before = everything_in(tmp_path)
    with pytest.raises(SinkError, match=f"{re.escape(str(path))} is not part of a recording"):
        await record(tmp_path, 1)
    assert everything_in(tmp_path) == before


async def test_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SinkError, match=f"Not a directory: .*{tmp_path}/file"):
            await record(path, 1)


def as_nobody(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a script that starts as root; its ``drop()`` changes to user nobody."""
    prelude = f"""
        import asyncio, os, sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE)!r})
        from support.outcomes import Account, make_batch
        from flowstream.errors import SinkError
        from flowstream.segments.sink import SegmentSink
        def drop():
            os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_directory_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = as_nobody(
        """
        async def main():
            drop()
            try:
                await SegmentSink(Path(sys.argv[1]), Account(), partitions=1).start(["t"])
            except SinkError as err:
                print(err)
        asyncio.run(main())
        """,
        str(tmp_path / "recording"),
    )
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stdout
    assert "use a directory that can be created and written" in done.stdout


def test_owner_can_continue_after_root_is_given_up(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    done = as_nobody(
        f"""
        async def main():
            account = Account()
            sink = SegmentSink(Path(sys.argv[1]), account, partitions=1,
                               owner=({NOBODY}, {NOBODY}), segment_bytes=50_000)
            await sink.start(["t"])
            drop()
            for n in range(7):
                await sink.send(make_batch("t", 0, n * 97, 97))
            await sink.close(60)
            assert not account.causes, account.causes
        asyncio.run(main())
        """,
        str(tmp_path / "recording"),
    )
    assert done.returncode == 0, done.stderr
    made = list((tmp_path / "recording").rglob("*"))
    assert len(made) > 3
    assert {path.stat().st_uid for path in made} == {NOBODY}


def test_next_segment_is_created_without_privileges_in_any_directory(tmp_path: Path) -> None:
    """Both a parent directory and the operator's own one may be accessible to root only."""
    (tmp_path / "above").mkdir(mode=0o700)
    for directory in (tmp_path / "above" / "made", tmp_path / "above"):
        done = as_nobody(
            f"""
            account = Account()
            sink = SegmentSink(Path(sys.argv[1]), account, partitions=1,
                               owner=({NOBODY}, {NOBODY}), segment_bytes=50_000)
            sink.prepare(["t"])
            sink.load()
            drop()
            async def main():
                await sink.start(["t"])
                for n in range(7):
                    await sink.send(make_batch("t", 0, n * 97, 97))
                await sink.close(60)
            asyncio.run(main())
            assert not account.causes, account.causes
            assert sink.fault is None, sink.fault
            """,
            str(directory),
        )
        assert done.returncode == 0, done.stderr
        made = list((directory / "t-0").iterdir())
        assert len(made) == 4
        assert {path.stat().st_uid for path in made} == {NOBODY}
        shutil.rmtree(tmp_path / "above" / "made", ignore_errors=True)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with a file, both owned by root, outside of the recording."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("of root alone")
    return path


def state_of(path: Path) -> list[tuple[str, int, int, int]]:
    """Everything that changes when a file is written or gets another owner."""
    entries = [path, *everything_in(path)]
    status = [(str(entry), entry.lstat()) for entry in entries]
    return [(name, it.st_size, it.st_uid, it.st_mtime_ns) for name, it in status]


SEGMENT = f"t-0/{0:020}.log"


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("name", [".lock", SEGMENT])
async def test_no_link_to_a_file_is_followed(
    tmp_path: Path, outside: Path, name: str, make: Callable[[Path, Path], None]
) -> None:
    await refused_for(tmp_path / "recording" / name, outside / "secret", make)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("target", ["outside", "missing", "outside/missing"])
@pytest.mark.parametrize("name", [".lock", "t-0", "other-3", SEGMENT])
async def test_no_link_to_anything_else_is_followed(
    tmp_path: Path, name: str, target: str
) -> None:
    await refused_for(tmp_path / "recording" / name, tmp_path / target, Path.symlink_to)


async def refused_for(link: Path, target: Path, make: Callable[[Path, Path], None]) -> None:
    """A sink in the recording with this ``link`` names the link and changes nothing."""
    recording, *_ = (path for path in link.parents if path.name == "recording")
    link.parent.mkdir(parents=True)
    make(link, target)
    before = state_of(recording.parent)
    sink = SegmentSink(recording, Account(), partitions=1, owner=(NOBODY, NOBODY))
    with pytest.raises(SinkError, match=f"{link} (is a link|is not part of a recording.* link)"):
        await sink.start(["t"])
    assert state_of(recording.parent) == before
    await sink.close(1)


async def test_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(SinkError, match=r"\.lock is a link, or neither"):
        await record(tmp_path, 1)


async def test_configured_directory_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    await record(tmp_path / "link", 7)
    assert len(await read(tmp_path / "real")) == 7


async def test_only_created_entries_get_the_owner(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "new" / "recording"
    sink = SegmentSink(path, Account(), partitions=1, owner=(NOBODY, NOBODY))
    await sink.start(["t"])
    await sink.close(60)
    owners = {entry: entry.stat().st_uid for entry in everything_in(tmp_path)}
    assert {entry for entry, uid in owners.items() if uid == NOBODY} == {
        *(path, path / ".lock", path / "t-0", path / SEGMENT)
    }


async def test_replaced_directories_are_not_followed(tmp_path: Path, outside: Path) -> None:
    account = Account()
    path = tmp_path / "recording"
    sink = SegmentSink(path, account, partitions=1, segment_bytes=50_000)
    await sink.start(["t"])
    await sink.send(make_batch("t", 0, 0, 97))
    await sink.flush(60)
    before = state_of(outside)
    (path / "t-0").rename(path / "t-1")
    (path / "t-0").symlink_to(outside)
    path.rename(tmp_path / "moved")
    path.symlink_to(outside)
    for n in range(1, 7):
        await sink.send(make_batch("t", 0, n * 97, 97))
    await sink.close(60)
    assert account.settled == len(account.acknowledged_values) == 679
    assert state_of(outside) == before
    assert len(list((tmp_path / "moved" / "t-1").iterdir())) == 4


def test_disk_that_fails_to_sync_is_a_fault(tmp_path: Path) -> None:
    """Also for complete segments; no batch fails for that."""
    done = as_nobody(
        """
        from support.failing_fsync import fail_fsync
        async def main():
            account = Account()
            sink = SegmentSink(Path(sys.argv[1]), account, partitions=1, segment_bytes=50_000)
            await sink.start(["t"])
            for n in range(7):
                await sink.send(make_batch("t", 0, n * 97, 97))
            await sink.close(60)
            assert not account.causes, account.causes
            print(sink.fault)
        # It does not affect threads that exist already.
        fail_fsync()
        asyncio.run(main())
        """,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    text = "the recording may not be durable: Input/output error"
    assert done.stdout.splitlines()[-1] == f"file:{tmp_path}: {text}"


async def test_bug_fails_the_batch_and_is_reported(tmp_path: Path) -> None:
    account = Account()
    sink = SegmentSink(tmp_path, account, partitions=1)
    await sink.start(["t"])
    broken = make_batch("t", 0, 0, 7)
    broken.values[3] = "no octets"  # type: ignore[call-overload]
    await sink.send(broken)
    await sink.flush(60)
    assert account.causes == {"internal_error": 7}
    assert sink.fault is not None
    assert "TypeError" in sink.fault
    await sink.send(make_batch("t", 0, 7, 13))
    await sink.close(60)
    assert [number(m.value) for m in await read(tmp_path)] == list(range(7, 20))


async def test_full_disk_fails_the_batch_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    account = Account()
    sink = SegmentSink(tmp_path, account, partitions=1)
    await sink.start(["t"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    await sink.send(make_batch("t", 0, 0, 101))
    await sink.flush(60)
    segment = tmp_path / "t-0" / f"{0:020}.log"
    size = segment.stat().st_size
    # A write over the limit is cut short and then refused (EFBIG), as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))
    try:
        await sink.send(make_batch("t", 0, 101, 97))
        await sink.flush(60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert account.causes == {"io_error": 97}
    assert segment.stat().st_size == size
    await sink.send(make_batch("t", 0, 198, 89))
    await sink.close(60)
    assert account.causes == {"io_error": 97}
    numbers = [number(m.value) for m in await read(tmp_path)]
    assert numbers == [*range(101), *range(198, 287)]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("kafka://localhost", "'localhost' is not HOST:PORT; Kafka's usual port is 9092"),
        ("kafka://", "an address is missing"),
        ("kafka://a:9092,", "an address is missing"),
        ("kafka://a:0", "port 0 is out of range"),
        ("kafka://a:65536", "port 65536 is out of range"),
        ("kafka://user:secret@a:9092", "user and password in the URL are not supported"),
        ("kafka:a:9092", "use kafka://HOST:PORT"),
        ("amqp://a:1", "unknown scheme 'amqp'"),
        ("recording", "has no scheme; use kafka://"),
        ("file:", "use file:DIR,"),
        ("file://host/dir", "use file:DIR,"),
        ("stdout:x", "takes nothing after the colon"),
    ],
)
async def test_invalid_url_is_explained(url: str, text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        open_sink(url, Account(), partitions=1, record_format="json")


async def test_partitions_below_one_and_binary_on_stdout_are_refused() -> None:
    with pytest.raises(UsageError, match="partitions: 0"):
        open_sink("stdout:", Account(), partitions=0, record_format="json")
    with pytest.raises(UsageError, match="use format json"):
        open_sink("stdout:", Account(), partitions=1, record_format="msgpack")
