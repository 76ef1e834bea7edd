"""The spool's directory: refused before anything is changed, and safe to open as root."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.spools import (
    TOPIC,
    append,
    drain,
    files,
    filled,
    flows,
    log_of,
    opened,
    tally_of,
)
from support.users import open_to_all

from flowstream.errors import SinkError
from flowstream.segments.directory import Directory
from flowstream.segments.sink import SegmentSink
from flowstream.segments.writer import SegmentWriter

NOBODY = (65534, 65534)
HERE = Path(__file__).parent


def refusal(path: Path, **options) -> str:
    """Why the spool is refused; nothing there is changed."""
    before = state(path)
    with pytest.raises(SinkError) as caught:
        opened(path, **options)
    assert state(path) == before
    return str(caught.value)


def state(path: Path) -> list[tuple[object, ...]]:
    """All that changes when a file is written or given away; not the lock's content."""
    found = [(each, each.lstat()) for each in sorted([path, *path.rglob("*")])]
    return [
        (str(each), it.st_mode, it.st_uid, 0 if stat.S_ISDIR(it.st_mode) else it.st_size)
        for each, it in found
        if each.name != ".lock"
    ]


def as_nobody(script: str, *args: object) -> str:
    """Run a script that starts as root; its ``drop()`` changes to user nobody."""
    prelude = f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE)!r})
        from support.spools import append, drain, flows, opened
        from flowstream.errors import SinkError
        NOBODY = {NOBODY}
        def drop():
            os.setgroups([]); os.setgid({NOBODY[1]}); os.setuid({NOBODY[0]})
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def reachable(tmp_path: Path) -> Path:
    """A directory that everybody can reach."""
    open_to_all(tmp_path)
    return tmp_path


def test_a_second_process_is_refused_and_the_first_is_named(tmp_path):
    with opened(tmp_path) as spool:
        append(spool, flows(0, 7))
        assert refusal(tmp_path) == (
            f"spool {tmp_path}: process {os.getpid()} is writing there; "
            "stop it or use another directory"
        )
        append(spool, flows(7, 7))
    with opened(tmp_path) as spool:
        assert drain(spool) == list(range(14))


def test_a_recording_is_refused_and_kept(tmp_path):
    """It would be published and deleted."""
    batch = flows(0, 31)
    (tmp_path / f"{TOPIC}-0").mkdir()
    writer = SegmentWriter(Directory.open(tmp_path / f"{TOPIC}-0", None))
    assert writer.append(batch) == (31, None)
    writer.close()
    text = f"spool {tmp_path}: it has a recording, not a spool; use another directory"
    assert refusal(tmp_path) == text


def test_a_spool_is_no_place_to_record_to(tmp_path):
    filled(tmp_path, 31)
    sink = SegmentSink(tmp_path, None, partitions=3)
    with pytest.raises(SinkError, match=r"is not part of a recording"):
        sink.prepare([TOPIC])


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("notes.txt", False),
        (f"{TOPIC}-0/notes.txt", False),
        (f"{TOPIC}-0/7.tally", False),
        (f"{TOPIC}-0", False),
        (f"{TOPIC}-00", True),
        ("checkpoint", True),
        ("etc", True),
    ],
)
def test_foreign_files_are_named_and_kept(tmp_path, name, directory):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if directory else path.write_text("")
    assert refusal(tmp_path).startswith(f"spool {tmp_path}: {path} is not part of a spool")


def test_a_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SinkError, match=f"^spool {path}: Not a directory: .*/file; use a"):
            opened(path)


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("where", [".lock", "checkpoint", "log", "tally"])
def test_no_link_to_a_file_is_followed(tmp_path, where, make):
    filled(tmp_path / "spool", 31)
    (tmp_path / "secret").write_text("of root alone")
    spool = tmp_path / "spool"
    link = {"log": log_of(spool), "tally": tally_of(spool)}.get(where, spool / where)
    link.unlink()
    make(link, tmp_path / "secret")
    assert str(link) in refusal(spool, owner=NOBODY)
    assert (tmp_path / "secret").read_text() == "of root alone"
    assert (tmp_path / "secret").stat().st_uid == 0


@pytest.mark.parametrize("where", [".lock", "checkpoint", "checkpoint.new", f"{TOPIC}-1"])
def test_no_link_to_a_directory_is_followed(tmp_path, where):
    (tmp_path / "outside").mkdir()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / where).symlink_to(tmp_path / "outside")
    assert str(tmp_path / "spool" / where) in refusal(tmp_path / "spool", owner=NOBODY)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_planted_while_it_runs_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("of root alone")
    with opened(tmp_path / "spool") as spool:
        append(spool, flows(0, 7))
        log_of(tmp_path / "spool").unlink()
        log_of(tmp_path / "spool").symlink_to(tmp_path / "secret")
        (tmp_path / "spool" / "checkpoint.new").symlink_to(tmp_path / "secret")
        assert spool.read() is None
        assert [each.records for each in spool.gone()] == [7]
        spool.save()
    assert (tmp_path / "secret").read_text() == "of root alone"


def test_modes_and_owners_are_the_same_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with opened(tmp_path / "spool", owner=NOBODY) as spool:
            append(spool, flows(0, 7))
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    partitions = {f"spool/{TOPIC}-{n}": 0o750 for n in range(3)}
    assert modes == {
        "spool": 0o750,
        "spool/.lock": 0o600,
        "spool/checkpoint": 0o640,
        **partitions,
        f"spool/{TOPIC}-0/{0:020}.log": 0o640,
        f"spool/{TOPIC}-0/{0:020}.tally": 0o640,
    }
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {NOBODY[0]}
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_it_is_written_after_root_is_given_up(reachable):
    """Everything: segments, the next one, the checkpoint, deletion."""
    out = as_nobody(
        """
        spool = opened(Path(sys.argv[1]) / "spool", owner=NOBODY, segment_bytes=5_000)
        drop()
        for n in range(5):
            append(spool, flows(n * 20, 20))
        spool.sync()
        print(drain(spool) == list(range(100)))
        append(spool, flows(100, 20))
        spool.save()
        """,
        reachable,
    )
    assert out == "True\n"
    assert files(reachable / "spool", ".log") == [f"{TOPIC}-0/{100:020}.log"]
    assert {each.stat().st_uid for each in (reachable / "spool").rglob("*")} == {NOBODY[0]}
    with opened(reachable / "spool") as spool:
        assert drain(spool) == list(range(100, 120))


def test_a_parent_that_only_root_can_enter_is_no_obstacle(reachable):
    (reachable / "above").mkdir(mode=0o700)
    out = as_nobody(
        """
        spool = opened(Path(sys.argv[1]), owner=NOBODY, segment_bytes=5_000)
        drop()
        for n in range(5):
            append(spool, flows(n * 20, 20))
        print(drain(spool) == list(range(100)))
        """,
        reachable / "above" / "spool",
    )
    assert out == "True\n"


@pytest.mark.parametrize("what", ["directory", "partition", "log", "tally", "checkpoint"])
def test_what_the_user_may_not_use_is_refused_while_root(reachable, what):
    """Now and not when the first batch is to be written."""
    spool = reachable / "spool"
    filled(spool, 31, owner=NOBODY)
    path = {
        "directory": spool,
        "partition": spool / f"{TOPIC}-0",
        "log": log_of(spool),
        "tally": tally_of(spool),
        "checkpoint": spool / "checkpoint",
    }[what]
    os.chown(path, 0, 0)
    path.chmod(0o770 if path.is_dir() else 0o660)
    text = refusal(spool, owner=NOBODY)
    assert text == (
        f"spool {spool}: Permission denied: {path}; "
        "use a directory that the agent's user can write"
    )
    with opened(spool) as again:
        assert drain(again) == list(range(31))


def test_a_partition_that_the_topic_got_since_is_created(tmp_path):
    with opened(tmp_path) as spool:
        append(spool, flows(0, 7))
        append(spool, dataclasses.replace(flows(7, 13), partition=3))
        assert (tmp_path / f"{TOPIC}-3").is_dir()
    with opened(tmp_path) as again:
        assert again.topics == {TOPIC}
        assert sorted(drain(again)) == list(range(20))


def test_a_link_in_place_of_a_new_partition_is_an_error(tmp_path):
    (tmp_path / "outside").mkdir()
    with opened(tmp_path / "spool") as spool:
        (tmp_path / "spool" / f"{TOPIC}-3").symlink_to(tmp_path / "outside")
        written, error = spool.append(dataclasses.replace(flows(0, 7), partition=3), 1_024)
        assert written == 0
        assert f"{TOPIC}-3 is a link" in str(error)
    assert list((tmp_path / "outside").iterdir()) == []


def test_files_are_found_by_their_descriptors(tmp_path):
    """The directory is renamed and another one put in its place: nothing goes there."""
    with opened(tmp_path / "spool", segment_bytes=5_000) as spool:
        append(spool, flows(0, 20))
        (tmp_path / "spool").rename(tmp_path / "moved")
        (tmp_path / "spool").mkdir()
        append(spool, flows(20, 20))
        append(spool, flows(40, 20))
        assert drain(spool) == list(range(60))
    assert list((tmp_path / "spool").iterdir()) == []
