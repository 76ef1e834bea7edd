"""What captures take of the system, and files that change while they are read."""

from __future__ import annotations

import gc
import itertools
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packets import reference
from packets.pcap_files import Packet, pcap, pcapng
from support.pcap_runs import BEGIN_NS, Runner, frame, packets
from support.users import open_to_all

from flowstream.host.privileges import find_user
from flowstream.kernel.packets import PacketFeed
from flowstream.pcap.file import PIECE
from flowstream.pcap.reader import CaptureFile

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = 23
NOBODY = find_user("nobody")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


def held() -> tuple[int, int, int]:
    """Mappings of BPF maps, descriptors, and kernel memory of the maps among them."""
    mappings = Path("/proc/self/maps").read_text(encoding="utf-8").count("bpf-map")
    numbers = [entry.name for entry in Path("/proc/self/fd").iterdir()]
    memory = 0
    for number in numbers:
        try:
            info = Path("/proc/self/fdinfo", number).read_text(encoding="utf-8")
        except FileNotFoundError:  # the directory's own
            continue
        memory += sum(map(int, re.findall(r"(?m)^memlock:\s+(\d+)$", info)))
    return mappings, len(numbers), memory


def test_memory_is_that_of_one_file(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin = PacketFeed.begin

    def beginning(self: PacketFeed, if_index: int) -> None:
        os.write(log, f"{held()}\n".encode())
        begin(self, if_index)

    monkeypatch.setattr(PacketFeed, "begin", beginning)
    log = os.open(tmp_path / "held", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    gc.disable()
    try:
        done = run(*[pcap(packets(n + 2)) for n in range(FILES)])
    finally:
        gc.enable()
        os.close(log)
    assert (done.status, len(done.counters)) == (0, FILES)
    # Nothing of the file before is there when the next one begins.
    found = (tmp_path / "held").read_text(encoding="utf-8").splitlines()
    assert len(found) == FILES
    assert len(set(found)) == 1


def test_closed_feed_keeps_nothing() -> None:
    before = held()
    with PacketFeed() as feed:
        assert held()[2] > before[2] + (16 << 20)
        assert held()[0] == before[0] + 6
    assert held() == before
    del feed


ENTRY = 16 + len(frame())


def while_reading(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], path: Path
) -> None:
    """Change the file after its first piece went through the program.

    The run changes it itself, as the user nobody.
    """
    open_to_all(path.parents[1])
    for given in (path.parent, path):
        os.chown(given, *NOBODY)
    read = PacketFeed.run
    changed = []

    def reading(*args: object) -> object:
        done = read(*args)
        if not changed:
            changed.append(change(path))
        return done

    monkeypatch.setattr(PacketFeed, "run", reading)


def made(count: int = 20_011) -> list[Packet]:
    return [Packet(BEGIN_NS + n * 1000, frame(n % 7)) for n in range(count)]


@pytest.mark.parametrize("make", [pcap, pcapng])
@pytest.mark.parametrize("left", [0, 20, 100_000, PIECE, PIECE + 5_000])
def test_file_that_shrinks_is_damaged(
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[list[Packet]], bytes],
    left: int,
) -> None:
    content = make(made())
    path = run.file(content)
    while_reading(monkeypatch, lambda path: os.truncate(path, left), path)
    done = run(path)
    assert done.status == 1
    assert re.fullmatch(
        rf"flowstream: error: {path}: octet \d+: is cut in .*: it shrank from "
        rf"{len(content):,} to {left:,} octets while it was read\n",
        done.error,
    )
    (counters,) = done.counters
    assert counters.final
    assert PIECE // 80 < counters.seen_packets < 20_011
    frames = [packet.frame for packet in made(counters.seen_packets)]
    assert (done.sums(), {}) == reference.flows(frames)


def test_file_that_shrinks_to_whole_packets_is_damaged(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.file(pcap(made()))
    left = 24 + 10_000 * ENTRY
    while_reading(monkeypatch, lambda path: os.truncate(path, left), path)
    done = run(path)
    assert done.status == 1
    assert f"octet {left}: is cut in the header of a packet: it shrank from" in done.error
    assert done.counters[0].seen_packets == 10_000


def test_file_that_shrinks_behind_what_was_read_is_told(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.file(pcap(packets(7)))
    while_reading(monkeypatch, lambda path: os.truncate(path, 30), path)
    done = run(path)
    assert (done.status, done.counters[0].seen_packets) == (1, 7)
    assert f"{path}: octet 30: is cut: it shrank from" in done.error


def test_file_that_grows_is_read_as_it_was(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pcap(made())
    path = run.file(content)

    def grow(path: Path) -> None:
        with path.open("ab") as file:
            file.write(content[24 : 24 + 3 * ENTRY])

    while_reading(monkeypatch, grow, path)
    done = run(path)
    assert (done.status, done.counters[0].seen_packets) == (0, 20_011)
    assert done.error == (
        f"flowstream: warning: {path}: grew by {3 * ENTRY} octets while it was read; "
        "they are not published\n"
    )
    monkeypatch.undo()
    # Its host_id is that of what was read.
    again = run(run.file(content, "test.pcap"))
    assert again.recording.messages() == done.recording.messages()


def test_file_that_is_written_to_is_told(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.file(pcap(made()))

    def write(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(24 + 16)
            file.write(b"\xff")
        os.utime(path, ns=(0, 0))

    while_reading(monkeypatch, write, path)
    done = run(path)
    assert done.status == 1
    assert "the file was written to while it was read" in done.error
    assert done.counters[0].seen_packets == 20_011


def test_file_that_is_replaced_is_read_as_it_was(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run.file(pcap(packets(7)), "a.pcap"), run.file(pcap(packets(5)), "b.pcap")

    def replace(_: Path) -> None:
        run.file(pcap(packets(3)), "c.pcap").rename(second)

    while_reading(monkeypatch, replace, first)
    done = run(first, second)
    assert (done.status, done.error) == (0, "")
    assert sorted(counters.seen_packets for counters in done.counters) == [5, 7]


def test_file_that_shrinks_before_its_first_octets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(packets(3)))
    with CaptureFile(path) as file:
        os.truncate(path, 10)
        with pytest.raises(Exception, match=r"octet 10: is cut in its header: it shrank from"):
            file.packets()


def test_huge_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(packets(3)) + struct.pack("<4I", 0, 0, 1 << 26, 1 << 26))
    os.truncate(path, 1 << 40)
    with CaptureFile(path) as file:
        sizes = [len(octets) for _, _, octets in itertools.islice(file.packets(), 1_009)]
    # What is not written reads as zeros: packets of nothing at the beginning of the epoch.
    assert sizes == [len(packet.frame) for packet in packets(3)] + [1 << 26] + [0] * 1_005
