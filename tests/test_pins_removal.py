"""Removing everything from a directory of pins, whatever is in there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import delivered
from support.net import namespace, veth_pair
from support.pinned import FIRST_EPOCH, ROOT, PinnedRun
from support.traffic import wait_until

from flowstream.errors import KernelError
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.generation import BOOKS
from flowstream.kernel.link import Mode, mode_of
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.removal import remove_all
from flowstream.layouts.constants import EndReason

PACKETS = 1_009


@pytest.fixture
def place(bpffs):
    return bpffs / "flowstream"


def removed(place):
    with PinDirectory(str(place), ROOT, create=False) as directory:
        return remove_all(directory, EndReason.FORCED)


def leave(place, interface, number=0):
    with PinnedRun(place, number) as run:
        run.attach(interface)
        with BooksMap.from_fd(run.generation.open(BOOKS)) as books:
            books.put(7, b"octets")
        return run.attachment


def runs_there(interface, attachment):
    with interface.namespace.entered():
        return mode_of(interface.index, attachment.program.id) is not None


def has_open(pid, place):
    # Its other descriptors come and go.
    with contextlib.suppress(OSError):
        return any(each.samefile(place) for each in Path(f"/proc/{pid}/fd").iterdir())


def test_programs_are_detached_and_what_they_left_is_counted(place, wire):
    sender, receiver = wire
    arrived = []
    for number in range(2):
        attachment = leave(place, receiver, number)
        arrived.append(delivered(sender, receiver, PACKETS + number))
    removal = removed(place)
    code = attachment.key.code
    assert removal.left == []
    assert [run.epoch for run in removal.runs] == [FIRST_EPOCH, FIRST_EPOCH + 1024]
    assert [run.links for run in removal.runs] == [{}, {code: receiver.index}]
    assert [run.drained for run in removal.runs] == arrived
    assert [run.counts[code].seen.packets for run in removal.runs] == arrived
    assert [run.books for run in removal.runs] == [{7: b"octets"}] * 2
    assert [run.fault for run in removal.runs] == ["", ""]
    assert not place.exists()
    assert not runs_there(receiver, attachment)


def test_interfaces_that_are_gone_have_no_number(place):
    with namespace() as here, namespace() as there:
        with veth_pair(here, there) as (_, receiver):
            code = leave(place, receiver).key.code
        assert [run.links for run in removed(place).runs] == [{code: 0}]


def test_the_maps_of_another_version_go_too(place, wire):
    _, receiver = wire
    with PinnedRun(place) as run:
        run.attach(receiver)
        program = run.attachment
        run.generation.unpin("slot")
        with BooksMap() as other:
            run.generation.pin("slot", other.fd)
    (gone,) = removed(place).runs
    assert "left by another version" in gone.fault
    assert list(gone.links.values()) == [receiver.index]
    assert not runs_there(receiver, program)
    assert not place.exists()


def test_what_is_no_pin_is_named_and_stays(bpffs, place, wire):
    _, receiver = wire
    program = leave(place, receiver)
    run = place / str(FIRST_EPOCH)
    (run / "later").symlink_to(bpffs)
    (run / "other").mkdir()
    (place / "notes").mkdir()
    (place / "1").symlink_to(run)
    removal = removed(place)
    assert removal.left == [
        f"{place}/notes: not made by flowstream",
        f"{place}/1: Not a directory",
        f"{run}/later: not a pin",
        f"{run}/other: not a pin",
    ]
    assert not runs_there(receiver, program)
    assert sorted(path.name for path in run.iterdir()) == ["later", "other"]
    for path in (run / "later", place / "1"):
        path.unlink()
    for path in (run / "other", place / "notes"):
        path.rmdir()
    assert removed(place).left == []
    assert not place.exists()


def test_pins_of_later_versions_go_whatever_their_names(place):
    with PinnedRun(place) as run, BooksMap() as other:
        os.link(place / run.generation.path / "books", place / run.generation.path / "things-4")
        del other
    (gone,) = removed(place).runs
    assert "things-4: not made by flowstream" in gone.fault
    assert not place.exists()


def test_an_agent_that_waits_for_the_lock_is_told_that_the_directory_is_gone(place):
    code = f"""
from flowstream.errors import KernelError
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.pin_directory import PinDirectory
print("waits", flush=True)
try:
    PinDirectory({str(place)!r}, Owner(0, 0))
except KernelError as err:
    print(err)
"""
    with PinDirectory(str(place), ROOT) as directory:
        waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert waiting.stdout.readline() == "waits\n"
        assert wait_until(lambda: has_open(waiting.pid, place))
        assert remove_all(directory, EndReason.FORCED).left == []
    assert waiting.communicate(timeout=60)[0] == f"{place}: removed meanwhile: start again\n"


def test_nothing_is_removed_while_an_agent_has_the_directory(place, wire):
    _, receiver = wire
    with PinnedRun(place) as run:
        run.attach(receiver, Mode.NATIVE)
        with pytest.raises(KernelError, match="another agent uses this directory"):
            removed(place)
        assert runs_there(receiver, run.attachment)
        run.attachment.detach()
