"""Spools that cannot be used: one clear line, status 1, and nothing is attached or changed."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.agent import Agent, on
from support.net import namespace
from support.users import open_to_all

from faults.scene import TMPFS, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

FAILING_FSYNC = (sys.executable, str(Path(__file__).parent.parent / "support/failing_fsync.py"))
NOBODY = 65534
NOWHERE = "kafka://127.0.0.1:9"


class Start(NamedTuple):
    """A row: what is at the spool's place, and what the error says of it."""

    name: str
    place: Callable[[Path], AbstractContextManager[None]]
    says: str
    before: tuple[str, ...] = ()


@contextmanager
def nothing(spool: Path) -> Iterator[None]:
    yield


@contextmanager
def a_file(spool: Path) -> Iterator[None]:
    spool.touch()
    yield


@contextmanager
def with_file(spool: Path, name: str, content: bytes = b"mine") -> Iterator[None]:
    path = spool / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for each in (spool, path):
        os.chown(each, NOBODY, NOBODY)
    yield
    assert path.read_bytes() == content


@contextmanager
def roots(spool: Path) -> Iterator[None]:
    spool.mkdir(0o700)
    yield


@contextmanager
def used(spool: Path) -> Iterator[None]:
    """Another agent is using it."""
    with namespace() as here:
        options = ("-i", "lo", "--netns", here.name, "--mode", "generic", "--user", NOBODY)
        with Agent("--sink", NOWHERE, "--spool", spool, *options) as other:
            other.publishing()
            yield


@contextmanager
def mounted(spool: Path, *, full: bool) -> Iterator[None]:
    disk = spool.parent
    subprocess.run(["mount", *TMPFS, disk], check=True)
    try:
        disk.chmod(0o755)
        if full:
            fill(disk / "other")
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield
    finally:
        subprocess.run(["umount", disk], check=True)


def later_checkpoint() -> bytes:
    prefix = struct.pack(">8sII", b"fsspool\n", 2, 1)
    return prefix + zlib.crc32(prefix + b"x").to_bytes(4, "big") + b"x"


STARTS = [
    Start("a file", a_file, "Not a directory: .*use a directory that the agent's user can write"),
    Start(
        "a foreign file", partial(with_file, name="notes.txt"),
        r"notes\.txt is not part of a spool.*use an empty directory or a spool",
    ),
    Start(
        "a recording", partial(with_file, name=f"t-0/{0:020}.log"),
        "it has a recording, not a spool; use another directory",
    ),
    Start(
        "a checkpoint of a later version",
        partial(with_file, name="checkpoint", content=later_checkpoint()),
        "version 2 of the format is unknown; use the release that wrote it, or another directory",
    ),
    Start("a directory of root", roots, "Permission denied: .*agent's user can write"),
    Start("another agent", used, "process [0-9]+ is writing there; stop it or use another"),
    Start("a read-only disk", partial(mounted, full=False), "Read-only file system: "),
    Start("a full disk", partial(mounted, full=True), "No space left on device: "),
    Start("a disk that confirms nothing", nothing, "Input/output error: ", before=FAILING_FSYNC),
]  # fmt: skip


@pytest.mark.parametrize("start", [pytest.param(row, id=row.name) for row in STARTS])
def test_a_spool_that_cannot_be_used(start: Start, wire, tmp_path) -> None:
    open_to_all(tmp_path)
    spool = tmp_path / "disk" / "spool"
    spool.parent.mkdir()
    options = (*on(wire.receiver), "--sink", NOWHERE, "--spool", spool, "--user", NOBODY)
    with start.place(spool), Agent(*options, before=start.before) as agent:
        assert agent.wait() == 1
        (line,) = agent.output().splitlines()
        assert re.fullmatch(rf"flowstream: error: spool {spool}: .*{start.says}.*", line), line
