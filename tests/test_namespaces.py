"""Network namespaces by name, path and process, from their opening to their end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.net import Namespace as Place
from support.net import namespace

from flowstream.errors import KernelError, UsageError
from flowstream.host.namespaces import Namespace, open_all

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60
OWN = Path("/proc/thread-self/ns/net")


@pytest.fixture
def place() -> Iterator[Place]:
    with namespace() as made:
        yield made


@contextmanager
def process_in(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that is inside once the block begins."""
    with place.popen(
        "sh", "-c", "echo; exec cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


@contextmanager
def bound(place: Place, path: Path) -> Iterator[str]:
    """Let the file ``path`` stand for the namespace."""
    path.touch()
    subprocess.run(["mount", "--bind", place.path, path], check=True)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=False, stderr=subprocess.DEVNULL)


def inside(opened: Namespace) -> int:
    with opened.entered():
        return OWN.stat().st_ino


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_without_a_label_it_is_the_processs_own():
    before = open_descriptors()
    (own,) = open_all([])
    assert (own.label, own.number, own.fd, own.alive()) == ("", 0, None, True)
    assert inside(own) == OWN.stat().st_ino
    assert open_descriptors() == before
    own.close()
    assert not own.alive()


def test_names_paths_and_processes(place, tmp_path):
    own = OWN.stat().st_ino
    with bound(place, tmp_path / "bound") as path, process_in(place) as process:
        labels = (place.name, str(place.path), path, f"pid:{process.pid}")
        for label in (*labels, f"/proc/{process.pid}/ns/net"):
            with Namespace.open(label, 7) as opened:
                assert (opened.label, opened.number, opened.alive()) == (label, 7, True)
                assert inside(opened) == place.path.stat().st_ino != own
            assert OWN.stat().st_ino == own


def test_numbers_are_the_order_of_the_labels(place):
    with namespace() as other:
        opened = open_all([other.name, place.name, f"pid:{os.getpid()}"])
        assert [each.number for each in opened] == [0, 1, 2]
        assert [inside(each) for each in opened] == [
            *(other.path.stat().st_ino, place.path.stat().st_ino),
            OWN.stat().st_ino,
        ]
        for each in opened:
            each.close()


def test_one_namespace_under_two_labels_is_refused(place):
    before = open_descriptors()
    with pytest.raises(UsageError) as caught:
        open_all([place.name, f"pid:{os.getpid()}", str(place.path)])
    assert str(caught.value) == f"netns: {place.name} and {place.path} are one namespace"
    assert open_descriptors() == before


def test_a_name_that_does_not_exist(place):
    before = open_descriptors()
    with pytest.raises(KernelError) as caught:
        open_all([place.name, "nowhere"])
    told, _, names = str(caught.value).partition("; there are: ")
    assert told == "no network namespace 'nowhere'"
    assert place.name in names.split(", ")
    assert open_descriptors() == before


def test_a_path_that_does_not_exist(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with bound(place, tmp_path / "bound"):
        for name, listed in (("none", "bound, empty"), ("empty/none", "none"), ("no/ne", "none")):
            missing = tmp_path / name
            with pytest.raises(KernelError) as caught:
                Namespace.open(str(missing))
            assert str(caught.value) == (
                f"no network namespace '{missing}'; there are in {missing.parent}: {listed}"
            )


def test_a_process_that_does_not_exist():
    with subprocess.Popen(["true"]) as process:
        pass
    for label in (f"pid:{process.pid}", f"/proc/{process.pid}/ns/net", "pid:0"):
        with pytest.raises(KernelError) as caught:
            Namespace.open(label)
        assert str(caught.value) == (
            f"no network namespace {label!r}: no such process; "
            "lsns --type net lists namespaces with their processes"
        )


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/etc/passwd", "/proc"])
def test_other_files_are_refused(path):
    before = open_descriptors()
    with pytest.raises(KernelError) as caught:
        Namespace.open(path)
    assert str(caught.value) == f"{path} is not a network namespace"
    assert open_descriptors() == before


def test_a_namespace_that_was_deleted(place):
    with Namespace.open(place.name) as named, Namespace.open(str(place.path)) as by_path:
        subprocess.run(["ip", "netns", "delete", place.name], check=True)
        assert (named.alive(), by_path.alive()) == (False, False)
        # Another one of the same name is not the same.
        subprocess.run(["ip", "netns", "add", place.name], check=True)
        assert (named.alive(), by_path.alive()) == (False, False)
        assert inside(named) == inside(by_path) != place.path.stat().st_ino


def test_a_namespace_whose_process_has_ended(place):
    with process_in(place) as process:
        by_process = Namespace.open(f"pid:{process.pid}")
        by_path = Namespace.open(f"/proc/{process.pid}/ns/net")
        assert (by_process.alive(), by_path.alive()) == (True, True)
        process.kill()
        # Before its parent has waited for it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert (by_process.alive(), by_path.alive()) == (False, False)
    by_process.close()
    by_path.close()


def test_a_closed_one_does_not_keep_the_namespace_alive(place):
    """A device that ends with its namespace takes its peer in another one along."""
    with namespace() as other:
        peer = ("peer", "there", "netns", place.name)
        other.run("ip", "link", "add", "here", "type", "veth", *peer)
        with process_in(place) as process:
            held = open_all([place.name]), [Namespace.open(f"pid:{process.pid}")]
        subprocess.run(["ip", "netns", "delete", place.name], check=True)
        with other.entered():
            for (each,) in held:
                assert socket.if_nametoindex("here")
                each.close()
            deadline = time.monotonic() + DEADLINE_S
            while "here" in (name for _, name in socket.if_nameindex()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        subprocess.run(["ip", "netns", "add", place.name], check=True)


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_without_any_privilege_its_end_is_seen(place, tmp_path, mode):
    """Also in a directory that the user may not look into."""
    code = """if True:
        import sys
        from flowstream.host import privileges
        from flowstream.host.namespaces import Namespace
        opened = [Namespace.open(label) for label in sys.argv[1:]]
        privileges.give_up(privileges.User(65534, 65534))
        for line in sys.stdin:
            print(*(each.alive() for each in opened), flush=True)
    """
    directory = tmp_path / "directory"
    directory.mkdir()
    with (
        bound(place, directory / "bound") as path,
        process_in(place) as process,
        subprocess.Popen(
            [sys.executable, "-c", code, place.name, path, f"pid:{process.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as child,
    ):

        def seen() -> str:
            child.stdin.write("\n")
            return child.stdout.readline()

        directory.chmod(mode)
        assert seen() == "True True True\n"
        process.kill()
        process.wait()
        assert seen() == "True True False\n"
        # The name's file is another mount of the same namespace.
        subprocess.run(["umount", "--lazy", path], check=True)
        subprocess.run(["ip", "netns", "delete", place.name], check=True)
        assert seen() == "False False False\n"
        subprocess.run(["ip", "netns", "add", place.name], check=True)
        child.stdin.close()


def test_opening_and_entering_require_privileges(place):
    code = """if True:
        import os, sys
        from flowstream.errors import KernelError
        from flowstream.host import privileges
        from flowstream.host.namespaces import Namespace
        opened = Namespace.open(sys.argv[1])
        privileges.give_up(privileges.User(65534, 65534))
        try:
            with opened.entered():
                print("inside")
        except KernelError as err:
            print(err)
        try:
            Namespace.open(f"pid:{os.getppid()}")
        except KernelError as err:
            print(err)
    """
    command = [sys.executable, "-c", code, place.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    entering, opening = done.stdout.splitlines()
    assert entering == (
        f"entering network namespace {place.name}: Operation not permitted; "
        "needs root or CAP_SYS_ADMIN"
    )
    assert opening == (
        f"opening network namespace pid:{os.getpid()}: Permission denied; "
        "needs root or CAP_SYS_PTRACE"
    )
