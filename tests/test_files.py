"""Only regular files are read: anything else is refused at once."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path
from subprocess import run

import pytest
from packets.pcap_files import pcap
from support.pcap_runs import packets

from flowstream import files
from flowstream.errors import SourceError
from flowstream.files import open_regular, shown
from flowstream.segments.source import SegmentSource

OFFSET_0 = "00000000000000000000.log"


@pytest.fixture(params=["a named pipe", "a socket", "a character device", "a block device"])
def special(request, tmp_path):
    """A path of each kind, and the kind's name."""
    path = tmp_path / "special"
    match request.param:
        case "a named pipe":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "a character device":
            path.symlink_to("/dev/zero")
        case "a block device":
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))
    return path, request.param


def flowstream(*args):
    """Run the command; a hang is a failure."""
    command = [sys.executable, "-m", "flowstream", *map(str, args)]
    return run(command, capture_output=True, text=True, timeout=60, check=False)


def test_capture(special, tmp_path):
    path, kind = special
    (tmp_path / "good.pcap").write_bytes(pcap(packets(3)))
    done = flowstream("pcap", tmp_path / "good.pcap", path, "--sink", f"file:{tmp_path}/rec")
    assert (done.returncode, done.stderr) == (
        1,
        f"flowstream: error: {path}: cannot be read: Is {kind}, not a regular file\n",
    )
    assert not (tmp_path / "rec").exists()


def test_configuration(special):
    path, kind = special
    done = flowstream("run", "-i", "lo", "--config", path)
    assert (done.returncode, done.stderr) == (
        2,
        f"flowstream: error: {path}: cannot be read: Is {kind}, not a regular file\n",
    )


def recording_with(path, directory):
    """A recording whose first segment is what is at ``path``."""
    for topic in ("flows", "new_flows", "counters"):
        (directory / f"flowstream.{topic}-0").mkdir(parents=True)
    path.rename(directory / "flowstream.flows-0" / OFFSET_0)
    return directory


def test_segment(special, tmp_path):
    path, kind = special
    recording = recording_with(path, tmp_path / "rec")
    done = flowstream("audit", recording)
    assert done.returncode == 1
    assert done.stderr.endswith(f"Is {kind}, not a regular file\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("read", [SegmentSource.sizes, lambda source: anext(source.batches())])
@pytest.mark.anyio
async def test_segment_of_a_source(special, tmp_path, read):
    path, kind = special
    source = SegmentSource(recording_with(path, tmp_path / "rec"))
    with pytest.raises(SourceError, match=f"Is {kind}, not a regular file$"):
        await read(source)


def test_directories(tmp_path):
    (tmp_path / "made").mkdir()
    recording = recording_with(tmp_path / "made", tmp_path / "rec")
    for done in (flowstream("pcap", tmp_path), flowstream("audit", recording)):
        assert done.returncode == 1
        assert done.stderr.endswith(": Is a directory\n")


def test_pipe_that_takes_the_place_of_a_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"")
    opened = os.open

    def swap(*args):
        path.unlink()
        os.mkfifo(path)
        return opened(*args)

    monkeypatch.setattr(files.os, "open", swap)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="Is a named pipe, not a regular file"):
        open_regular(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"content"
        assert not file.isatty()


def test_names_are_shown_without_what_moves_a_cursor():
    assert shown(Path("/tmp/数据 é.pcap")) == "/tmp/数据 é.pcap"
    assert shown(Path("a\n\x1b[2J\x9b\u202e\udcff")) == r"a\n\x1b[2J\x9b\u202e\udcff"
