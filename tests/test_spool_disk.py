"""The spool on disks that are full, read-only or failing: nothing old is damaged."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs
from support.disks import small_disk
from support.outcomes import Account
from support.spools import (
    EPOCH,
    append,
    drain,
    files,
    filled,
    flows,
    log_of,
    numbers,
    opened,
    unread,
)

from flowstream.errors import SinkError
from flowstream.spool.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
NOBODY = (65534, 65534)


@pytest.fixture(name="small_disk")
def disk_of_400_kb(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "400k") as disk:
        yield disk


def remount(path: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), path], check=True)


def in_child(script: str, *args: object) -> str:
    prelude = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE)!r})
        from support.failing_fsync import fail_fsync
        from support.spools import append, drain, flows, numbers, opened, unread
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill(spool, first: int = 0) -> tuple[list[int], int]:
    """Append until the disk is full; return the numbers that are written, and the next."""
    kept: list[int] = []
    while True:
        batch = flows(first, 100, first // 100 % 3)
        written, error = spool.append(batch, EPOCH)
        kept += range(first, first + written)
        first += 100
        if error is not None:
            assert error.strerror == "No space left on device"
            return kept, first


def test_a_full_disk_refuses_what_has_no_room_and_keeps_the_rest(small_disk):
    with opened(small_disk, segment_bytes=60_000) as spool:
        kept, first = fill(spool)
        assert len(kept) > 1_000
        assert spool.records == len(kept)
        # Again and again: nothing changes.
        for n in range(5):
            written, error = spool.append(flows(first + n * 100, 100, n % 3), EPOCH)
            assert (written, error is not None) == (0, True)
        assert spool.records == len(kept)
        # It is read, published and deleted, although there is no room for a checkpoint.
        for _ in range(9):
            batch = spool.read()
            assert numbers([batch]) == kept[:100]
            del kept[:100]
            spool.acknowledge(batch)
        spool.save()
        append(spool, flows(first, 100))
        kept += range(first, first + 100)
        assert sorted(drain(spool)) == sorted(kept)
        assert spool.gone() == []
        assert files(small_disk) == []


def test_a_batch_of_which_a_part_is_written(small_disk):
    """How many records are written is told exactly."""
    with opened(small_disk) as spool:
        written, error = spool.append(flows(0, 4_000, size=4_000), EPOCH)
        assert (written, error.strerror) == (0, "No space left on device")
        (small_disk / "other").write_bytes(bytes(1_000))
        remount(small_disk, "size=1200k")
        written, error = spool.append(flows(0, 400, size=4_000), EPOCH)
        assert 0 < written < 400
        assert written == spool.records
        assert error.strerror == "No space left on device"
        assert drain(spool) == list(range(written))


def test_what_a_full_disk_kept_is_found_by_the_next_run(small_disk):
    with opened(small_disk, segment_bytes=60_000) as spool:
        kept, _ = fill(spool)
    # A full disk is no reason to refuse what it has.
    with opened(small_disk) as spool:
        assert spool.gone() == []
        assert sorted(drain(spool)) == kept


def test_a_full_disk_without_a_spool_is_refused(small_disk):
    (small_disk / "spool").mkdir()
    with (small_disk / "other").open("wb", buffering=0) as file:
        while file.write(bytes(4_096)) == 4_096 and free(small_disk):
            pass
    text = f"^spool {small_disk}/spool: No space left on device: .*; use a directory that"
    with pytest.raises(SinkError, match=text):
        opened(small_disk / "spool")


def free(path: Path) -> int:
    return os.statvfs(path).f_bfree


def test_a_read_only_disk_is_refused(small_disk):
    filled(small_disk, 31)
    remount(small_disk, "ro")
    with pytest.raises(SinkError, match=f"^spool {small_disk}: Read-only file system: "):
        opened(small_disk)
    with pytest.raises(SinkError, match="Read-only file system"):
        opened(small_disk / "new", owner=NOBODY)
    remount(small_disk, "rw")
    with opened(small_disk) as spool:
        assert drain(spool) == list(range(31))


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system of ext4, which can be made to fail."""
    image, path = tmp_path / "image", tmp_path / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    (path / "lost+found").rmdir()
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_disk_that_becomes_read_only_is_still_read(ext4):
    """As the kernel does after an error of the file system."""
    filled(ext4 / "spool", 31)
    with opened(ext4 / "spool") as spool:
        append(spool, flows(31, 7))
        remount(ext4, "abort")
        written, error = spool.append(flows(38, 7), EPOCH)
        assert (written, error.strerror) == (0, "Read-only file system")
        found = unread(spool)
        assert numbers(found) == list(range(38))
        for each in found:
            spool.acknowledge(each)
        with pytest.raises(OSError, match="Read-only"):
            spool.save()
        assert (spool.records, spool.gone()) == (0, [])


def test_a_disk_that_is_gone_loses_nothing_for_good(ext4):
    """Every access is EIO: nothing can be read, and nothing of that is written down."""
    filled(ext4 / "spool", 31)
    with opened(ext4 / "spool") as spool:
        append(spool, flows(31, 7))
        spool.sync()
        shut_down(ext4)
        written, error = spool.append(flows(38, 7), EPOCH)
        assert (written, error.strerror) == (0, "Input/output error")
        with pytest.raises(OSError, match="Input/output error"):
            spool.sync()
        with pytest.raises(OSError, match="Input/output error"):
            spool.read()
        with pytest.raises(OSError, match="Input/output error"):
            spool.save()
        assert (spool.records, spool.gone()) == (38, [])
    subprocess.run(["umount", ext4], check=True)
    # Another image: a namespace of another process may still have the first one mounted.
    again = shutil.copy(ext4.with_name("image"), ext4.with_name("again"))
    subprocess.run(["mount", "-o", "loop", again, ext4], check=True)
    with opened(ext4 / "spool") as spool:
        assert drain(spool) == list(range(38))
        assert spool.gone() == []


def test_what_cannot_be_read_now_is_logged_once(tmp_path):
    filled(tmp_path, 31)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def read() -> list[int]:
        disk = Disk(opened(tmp_path), Account(), pytest.fail)
        disk.start()
        for _ in range(3):
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    await disk.read(())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        found = await disk.read(())
        await disk.close(10)
        return numbers([found])

    with capture_logs() as lines:
        assert asyncio.run(read()) == list(range(31))
    said = {"event": "spool_not_read", "error": "Too many open files", "log_level": "error"}
    assert lines == [said]


def shut_down(path: Path) -> None:
    """EXT4_IOC_SHUTDOWN of linux/fs.h: from now on every access fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, 0x8004587D, struct.pack("I", 0))
    finally:
        os.close(descriptor)


def test_a_limit_of_the_size_of_files(tmp_path):
    """RLIMIT_FSIZE: EFBIG, after a part of the batch was written."""
    out = in_child(
        """
        import resource
        spool = opened(Path(sys.argv[1]))
        append(spool, flows(0, 100))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        written, error = spool.append(flows(100, 100), 1_024)
        print(written, error.strerror)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        append(spool, flows(100, 100))
        """,
        tmp_path,
    )
    assert out == "0 File too large\n"
    with opened(tmp_path) as spool:
        assert spool.gone() == []
        assert drain(spool) == list(range(200))


def test_a_disk_that_fails_to_sync_is_never_called_durable(tmp_path):
    """fsync fails in the kernel, by seccomp. It is told as long as those records wait."""
    out = in_child(
        """
        spool = opened(Path(sys.argv[1]), segment_bytes=5_000)
        append(spool, flows(0, 20))
        spool.sync()
        append(spool, flows(20, 20))
        fail_fsync()
        append(spool, flows(40, 20))
        append(spool, flows(60, 20))
        for _ in range(3):
            try:
                spool.sync()
                print("durable")
            except OSError as err:
                print(err.strerror)
        try:
            spool.save()
        except OSError as err:
            print(err.strerror)
        found = unread(spool)
        print(numbers(found) == list(range(80)))
        for each in found:
            spool.acknowledge(each)
        """,
        tmp_path,
    )
    assert out.splitlines() == ["Input/output error"] * 4 + ["True"]
    # The file system has everything; the checkpoint was not replaced.
    with opened(tmp_path) as spool:
        assert drain(spool) == list(range(80))


def test_what_a_killed_run_left_is_made_durable_too(tmp_path):
    """It did not come to that any more; without a word of the disk nobody says so."""
    filled(tmp_path, 20)
    out = in_child(
        """
        spool = opened(Path(sys.argv[1]))
        fail_fsync()
        for _ in range(2):
            try:
                spool.sync()
                print("durable")
            except OSError as err:
                print(err.strerror)
        """,
        tmp_path,
    )
    assert out.splitlines() == ["Input/output error"] * 2
    with opened(tmp_path) as spool:
        spool.sync()
        assert drain(spool) == list(range(20))


def test_a_segment_of_which_nothing_could_be_written(small_disk):
    """Its name is free again, also when it could not be deleted at once."""
    with opened(small_disk) as spool:
        append(spool, flows(0, 20))
        drain(spool)
        remount(small_disk, "size=40k")
        for _ in range(3):
            written, error = spool.append(flows(20, 1_000), EPOCH)
            assert (written, error.strerror) == (0, "No space left on device")
            with contextlib.suppress(OSError):
                spool.sync()
        remount(small_disk, "size=800k")
        append(spool, flows(20, 1_000))
        assert drain(spool) == list(range(20, 1_020))
        assert files(small_disk) == []


def test_a_segment_that_may_not_be_durable_is_closed(tmp_path):
    """fsync works again: later records are durable, and that is told once those are gone."""
    # The only way to let fsync fail for a while: seccomp's filters stay.
    with opened(tmp_path) as spool:
        append(spool, flows(0, 20))
        failing = patch("os.fsync", side_effect=OSError(5, "Input/output error"))
        with failing, pytest.raises(OSError, match="Input/output"):
            spool.sync()
        append(spool, flows(20, 20))
        assert len(files(tmp_path, ".log")) == 2
        with pytest.raises(OSError, match="Input/output"):
            spool.sync()
        spool.acknowledge(spool.read())
        spool.save()
        spool.sync()
        assert files(tmp_path, ".log") == [str(log_of(tmp_path, 20).relative_to(tmp_path))]
        assert drain(spool) == list(range(20, 40))
