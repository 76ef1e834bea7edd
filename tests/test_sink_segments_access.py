"""The recording that root creates in directories of other users, and who may use it."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import textwrap
from pathlib import Path

import pytest
from support.outcomes import Account
from support.users import open_to_all

from flowstream.errors import SinkError
from flowstream.host.privileges import find_user
from flowstream.segments.sink import SegmentSink

NOBODY = find_user("nobody")
AS_DAEMON = ("setpriv", "--reuid=daemon", "--regid=nogroup", "--clear-groups")
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A directory of user nobody, reachable by everybody."""
    open_to_all(tmp_path)
    place = tmp_path / "theirs"
    place.mkdir()
    os.chown(place, *NOBODY)
    return place


def prepared(path: Path, *, partitions: int = 1) -> SegmentSink:
    sink = SegmentSink(path, Account(), partitions=partitions, owner=NOBODY)
    sink.prepare(["t"])
    return sink


def close(sink: SegmentSink) -> None:
    sink._close_files()


def refusal(path: Path, *, partitions: int = 1) -> str:
    with pytest.raises(SinkError) as caught:
        prepared(path, partitions=partitions)
    return str(caught.value)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_modes_are_the_same_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        close(prepared(tmp_path / "above" / "recording"))
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    assert modes == {
        "above": 0o755,
        "above/recording": 0o750,
        "above/recording/.lock": 0o600,
        "above/recording/t-0": 0o750,
        f"above/recording/t-0/{0:020}.log": 0o640,
    }


def test_only_the_owner_can_open_the_lock(theirs):
    """Whoever may open a file may lock it, and so keep the agent from starting."""
    theirs.chmod(0o755)
    close(prepared(theirs))
    done = subprocess.run(
        [*AS_DAEMON, "flock", "--nonblock", f"{theirs}/.lock", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Permission denied" in done.stderr
    close(prepared(theirs))


def test_a_lock_that_others_could_open_is_closed_to_them(theirs):
    (theirs / ".lock").write_text("7\n")
    (theirs / ".lock").chmod(0o666)
    close(prepared(theirs))
    assert stat.S_IMODE((theirs / ".lock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"1234\n", "process 1234"),
        (b"\x1b[2J\n", "another process"),
        (b"12\r34", "another process"),
        ("١٢".encode(), "another process"),
        (b"\xff" * 30, "another process"),
        (b"", "another process"),
    ],
)
def test_the_holder_of_the_lock_is_a_number(tmp_path, content, shown):
    with (tmp_path / ".lock").open("wb") as lock:
        lock.write(content)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refusal(tmp_path).startswith(f"file:{tmp_path}: {shown} is writing there; ")


def test_root_follows_no_link_of_another_user(theirs):
    (theirs / "real").mkdir()
    (theirs / "link").symlink_to(theirs / "real")
    os.chown(theirs / "link", *NOBODY, follow_symlinks=False)
    for path in (theirs / "link", theirs / "link" / "below"):
        assert f"{theirs}/link is a link of another user" in refusal(path)
    assert list((theirs / "real").iterdir()) == []


@pytest.mark.parametrize("target", ["real", "../recordings/real", "/absolute"])
def test_links_of_root_are_followed(tmp_path, target):
    top = tmp_path / "recordings"
    (top / "real").mkdir(parents=True)
    (top / "link").symlink_to(str(top / "real") if target == "/absolute" else target)
    close(prepared(top / "link" / "made"))
    assert (top / "real" / "made" / "t-0").is_dir()


def test_a_circle_of_links_is_named(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "a")


def test_a_relative_directory_is_opened(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    close(prepared(Path("../there/recording")))
    assert (tmp_path / "there" / "recording" / "t-0").is_dir()


# Swaps the directory above the recording for a link to another one, and back.
RENAMER = textwrap.dedent(
    """
    import ctypes, os, sys
    os.chdir(sys.argv[1])
    exchange = ctypes.CDLL(None).renameat2
    print(flush=True)
    while True:
        exchange(-100, b"above", -100, b"other", 2)
    """
)


def test_a_swapped_parent_leads_nowhere(theirs, tmp_path):
    """Root gives away what it created, whatever happens to the path meanwhile."""
    victim = tmp_path / "victim"
    victim.mkdir()
    names = [f"r{n}" for n in range(300)]
    for name in names:
        (victim / name).mkdir()
    for name in ("above", "other"):
        (theirs / name).mkdir()
        os.chown(theirs / name, *NOBODY)
    (theirs / "other").rmdir()
    (theirs / "other").symlink_to(victim)
    os.chown(theirs / "other", *NOBODY, follow_symlinks=False)
    command = [*AS_NOBODY, "/usr/bin/python3", "-c", RENAMER, str(theirs)]
    made = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as renamer:
        try:
            assert renamer.stdout
            renamer.stdout.readline()
            for name in names:
                try:
                    close(prepared(theirs / "above" / name))
                    made += 1
                except SinkError:
                    continue
        finally:
            renamer.kill()
    assert made > 0
    assert {path.stat().st_uid for path in victim.rglob("*")} == {0}
    assert [path for path in victim.rglob("*") if path.parent != victim] == []


def test_a_partition_that_is_out_of_line_is_refused_at_once(tmp_path):
    for name in ("t-0", "t-1", "t-999999"):
        (tmp_path / name).mkdir()
    assert refusal(tmp_path, partitions=6) == (
        f"file:{tmp_path}: t-999999 is there, and only 3 partitions of this topic; "
        "use another directory, or --partitions 1000000 if the topic has so many"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "t-0", "t-1", "t-999999"]


@pytest.mark.parametrize(("present", "wanted", "count"), [((0, 1, 2), 1, 3), ((4,), 6, 5)])
def test_a_copy_that_lacks_partitions_is_continued(tmp_path, present, wanted, count):
    for number in present:
        (tmp_path / f"t-{number}").mkdir()
    sink = prepared(tmp_path, partitions=wanted)
    assert sink.partitions("t") == count
    close(sink)
