"""Directories of pins: made, locked and checked, with real maps in a BPF file system."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.users import AS_NOBODY, open_to_all

from flowstream.errors import KernelError, LayoutError, MapFullError
from flowstream.kernel import books_map, libbpf
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.generation import BOOKS, SHARED
from flowstream.kernel.maps import ArrayMap
from flowstream.kernel.object import MapSpec
from flowstream.kernel.pin_directory import PinDirectory

ROOT = Owner(0, 0)
NOBODY = Owner(65534, 65534)
EPOCH = 1_764_126_000_123_456_512
LATER = EPOCH + 1_024


@pytest.fixture
def books():
    with BooksMap() as made:
        yield made


@pytest.fixture
def directory(bpffs):
    with PinDirectory(f"{bpffs}/flowstream", ROOT) as made:
        yield made


def test_books_hold_octets_by_number(books):
    largest = bytes(range(256)) * 15 + bytes(books_map.LARGEST - 3840)
    entries = {0: b"", 7: b"\0\1", 2**64 - 1: largest, 2 * (2**32 - 1) + 1: b"\xff" * 1009}
    for key, octets in entries.items():
        books.put(key, b"former")
        books.put(key, octets)
    assert dict(books.items()) == entries
    assert [books.octets(key) for key in (7, 8)] == [b"\0\1", None]
    books.remove(7)
    books.remove(7)
    assert books.octets(7) is None
    with pytest.raises(KernelError, match="4031 octets, more than 4030"):
        books.put(3, bytes(4031))


def test_books_are_full_once_and_take_changes_of_what_they_have(books):
    for key in range(books_map.ENTRIES):
        books.put(key, b"first")
    with pytest.raises(MapFullError):
        books.put(books_map.ENTRIES, b"more")
    books.put(16_381, b"second")
    assert books.octets(16_381) == b"second"
    assert len(dict(books.items())) == 16_384


def test_an_entry_whose_length_is_impossible_is_no_entry(books):
    value = np.zeros(1, np.dtype((np.void, books_map.VALUE_SIZE)))
    value.view(np.uint8)[:2] = 255
    books.update(np.array([5], np.uint64), value)
    with pytest.raises(LayoutError, match="an entry of 65535 octets, more than 4030"):
        books.octets(5)


def test_pins_outlive_their_process(bpffs):
    code = f"""
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.generation import BOOKS
from flowstream.kernel.pin_directory import PinDirectory
with PinDirectory({str(bpffs / "pins")!r}, Owner(0, 0)) as made, BooksMap() as books:
    generation = made.create({EPOCH})
    books.put(3, b"kept")
    generation.pin(BOOKS, books.fd)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with PinDirectory(str(bpffs / "pins"), ROOT) as directory:
        (left,) = directory.generations()
        assert left.epoch == EPOCH
        assert left.names() == {"books"}
        assert left.complete
        with BooksMap.from_fd(left.open("books")) as books:
            assert dict(books.items()) == {3: b"kept"}
        left.remove()
        assert directory.generations() == []
    assert list((bpffs / "pins").iterdir()) == []


def test_everything_belongs_to_the_user_that_the_agent_becomes(bpffs, books):
    open_to_all(bpffs.parent)
    path = f"{bpffs}/pins"
    with PinDirectory(path, NOBODY) as directory, directory.create(EPOCH) as generation:
        generation.pin("books", books.fd)
        generation.pin("counters-6", books.fd)
        for place in ("pins", f"pins/{EPOCH}", f"pins/{EPOCH}/books"):
            status = (bpffs / place).stat()
            assert (status.st_uid, status.st_gid) == NOBODY
            assert not status.st_mode & 0o077
    # That user needs no privilege to work with them.
    code = f"""
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.pin_directory import PinDirectory
with PinDirectory({path!r}, Owner(65534, 65534)) as directory:
    (earlier,) = directory.generations()
    later = directory.create({LATER})
    books = BooksMap.from_fd(earlier.open("books"))
    later.pin("books", books.fd)
    earlier.unpin("counters-6")
    earlier.remove()
    print(sorted(later.names()), [each.epoch for each in directory.generations()])
"""
    command = [*AS_NOBODY, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"['books'] [{LATER}]\n", done.stderr


def test_a_directory_of_another_user_is_refused_with_both_named(bpffs):
    PinDirectory(f"{bpffs}/pins", NOBODY).close()
    with pytest.raises(KernelError, match="belongs to user 65534, and the agent runs as user 0: "):
        PinDirectory(f"{bpffs}/pins", ROOT)


def test_a_directory_that_others_can_enter_is_refused(bpffs):
    (bpffs / "pins").mkdir(0o750)
    with pytest.raises(KernelError, match=f"chmod 700 {bpffs}/pins"):
        PinDirectory(f"{bpffs}/pins", ROOT)


def test_the_mount_point_of_all_programs_is_refused_and_left_alone(bpffs):
    """Neither its owner nor its mode is to be changed: the error names a directory below."""
    bpffs.chmod(0o1777)
    text = f"all programs of the host share: use {bpffs}/flowstream"
    for owner in (ROOT, NOBODY):
        with pytest.raises(KernelError, match=text):
            PinDirectory(f"{bpffs}/", owner, create=False)


def test_where_sysfs_covers_the_mount_point_the_remedy_is_netns():
    with pytest.raises(KernelError, match=r"type sysfs, not bpf: .*use --netns instead"):
        PinDirectory("/sys/kernel", ROOT)


def test_without_the_right_to_give_it_away_nothing_is_left(bpffs):
    code = f"""
from flowstream.errors import KernelError
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.pin_directory import PinDirectory
try:
    PinDirectory({str(bpffs / "pins")!r}, Owner(65534, 65534))
except KernelError as err:
    print(err)
"""
    command = ["setpriv", "--bounding-set=-chown", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (
        "pins cannot be given to user 65534: Operation not permitted; needs CAP_CHOWN\n"
    )
    assert not (bpffs / "pins").exists()


def test_another_file_system_is_refused_and_left_alone(tmp_path):
    with pytest.raises(KernelError, match=r"not bpf: .*mount -t bpf bpf /sys/fs/bpf"):
        PinDirectory(str(tmp_path / "pins"), ROOT)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KernelError, match="not bpf"):
        PinDirectory(str(tmp_path), ROOT)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/pins", "no does not exist: make it first"),
        ("pins.d", "no dot"),
        ("link", "directory"),
        ("pin", "directory"),
    ],
)
def test_a_path_that_is_no_directory(bpffs, books, name, reason):
    (bpffs / "there").mkdir(0o700)
    (bpffs / "link").symlink_to("there")
    assert libbpf.library().bpf_obj_pin(books.fd, bytes(bpffs / "pin")) == 0
    with pytest.raises(KernelError, match=f"{bpffs}/{name}.*{reason}"):
        PinDirectory(f"{bpffs}/{name}", ROOT)


def test_detaching_makes_no_directory(bpffs):
    with pytest.raises(KernelError, match="No such file"):
        PinDirectory(f"{bpffs}/pins", ROOT, create=False)
    assert not (bpffs / "pins").exists()


def test_one_agent_at_a_time(bpffs, directory):
    with pytest.raises(KernelError, match="another agent uses this directory"):
        PinDirectory(directory.path, ROOT)
    fd = os.dup(directory.fd)
    directory.close()
    # A process that was forked, such as the attacher, still works in it.
    with pytest.raises(KernelError, match="another agent uses this directory"):
        PinDirectory(directory.path, ROOT)
    os.close(fd)
    PinDirectory(directory.path, ROOT).close()


def test_an_agent_that_is_about_to_end_is_waited_for(bpffs, directory):
    code = f"""
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.pin_directory import PinDirectory
print("waits", flush=True)
with PinDirectory({directory.path!r}, Owner(0, 0)):
    print("has it", flush=True)
"""
    waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert waiting.stdout.readline() == "waits\n"
    directory.close()
    assert waiting.communicate(timeout=60)[0] == "has it\n"


@pytest.mark.parametrize("name", ["notes", "0", "012", "1" * 21])
def test_what_flowstream_has_not_made_is_named(bpffs, directory, name):
    directory.create(EPOCH).close()
    (bpffs / "flowstream" / name).mkdir()
    with pytest.raises(KernelError, match=f"flowstream/{name}: not made by flowstream"):
        directory.generations()


def test_a_generation_that_is_none_is_named(bpffs, directory, books):
    place = bpffs / "flowstream" / str(EPOCH)
    place.symlink_to(bpffs)
    with pytest.raises(KernelError, match=str(EPOCH)):
        directory.generations()
    place.unlink()
    assert libbpf.library().bpf_obj_pin(books.fd, bytes(place)) == 0
    with pytest.raises(KernelError, match=str(EPOCH)):
        directory.generations()
    place.unlink()
    place.mkdir(0o700)
    os.chown(place, *NOBODY)
    with pytest.raises(KernelError, match=f"{EPOCH} belongs to user 65534"):
        directory.generations()
    os.chown(place, *ROOT)
    assert [each.epoch for each in directory.generations()] == [EPOCH]


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (lambda at: at.symlink_to("books"), "slot", "not a pin"),
        (lambda at: at.mkdir(), "counters-2", "not a pin"),
        (lambda at: at.symlink_to("books"), "other", "not made by flowstream"),
        (lambda at: os.chown(at.parent / "books", *NOBODY), "books", "belongs to user 65534"),
        (lambda at: at.symlink_to("books"), "link-8589934592", "not made by flowstream"),
        (lambda at: at.symlink_to("books"), "link-01", "not made by flowstream"),
    ],
)
def test_what_is_no_pin_of_ours_is_named_and_not_opened(
    bpffs, directory, books, make, name, reason
):
    with directory.create(EPOCH) as generation:
        generation.pin("books", books.fd)
        make(bpffs / "flowstream" / str(EPOCH) / name)
        for refused in (generation.names, lambda: generation.open(name), generation.remove):
            with pytest.raises(KernelError, match=f"{EPOCH}/{name}.*{reason}"):
                refused()
        assert (bpffs / "flowstream" / str(EPOCH) / "books").exists()


def test_a_pin_is_never_replaced(directory, books):
    with directory.create(EPOCH) as generation:
        generation.pin("books", books.fd)
        with pytest.raises(KernelError, match="books: File exists") as failed:
            generation.pin("books", books.fd)
        assert failed.value.errno == errno.EEXIST
        with pytest.raises(KernelError, match=f"{EPOCH}: File exists"):
            directory.create(EPOCH)


def test_only_maps_programs_and_links_can_be_pinned(directory):
    with directory.create(EPOCH) as generation, Path(os.devnull).open() as file:
        with pytest.raises(KernelError, match=f"pinning .*/{EPOCH}/slot: "):
            generation.pin("slot", file.fileno())
        with pytest.raises(KernelError, match=f"{EPOCH}/slot: No such file"):
            generation.open("slot")
        with pytest.raises(KernelError, match="not made by flowstream"):
            generation.pin("../slot", file.fileno())


def test_a_map_of_another_kind_is_a_layout_error(directory):
    spec = MapSpec("other", libbpf.MAP_TYPE_ARRAY, 4, 8, 1, 0)
    with (
        directory.create(EPOCH) as generation,
        ArrayMap(spec, np.dtype(np.uint64)) as array,
    ):
        generation.pin("books", array.fd)
        with pytest.raises(LayoutError, match="map books: its descriptor has type 2, expected 1"):
            BooksMap.from_fd(generation.open("books"))


def test_codes_are_those_of_attachments(directory, books):
    with directory.create(EPOCH) as generation:
        for name in ("counters-6", "counters-4294967296", "link-6", "table-0"):
            generation.pin(name, books.fd)
        assert generation.codes("counters") == [6, 4294967296]
        assert generation.codes("link") == [6]


def test_interrupted_at_any_step_a_removal_leaves_no_link_without_books(
    monkeypatch, directory, books
):
    names = ["link-2", "link-4", "counters-2", "counters-4", *SHARED, BOOKS]
    for done in range(len(names)):
        generation = directory.create(EPOCH)
        for name in names:
            generation.pin(name, books.fd)
        steps = iter(range(done))

        def unlink(name, *, dir_fd, steps=steps, unlink=os.unlink):
            if next(steps, None) is None:
                raise KeyboardInterrupt
            unlink(name, dir_fd=dir_fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", unlink)
            with pytest.raises(KeyboardInterrupt):
                generation.remove()
        assert len(generation.names()) == len(names) - done
        assert generation.complete or not generation.codes("link")
        generation.remove()
        assert directory.generations() == []
