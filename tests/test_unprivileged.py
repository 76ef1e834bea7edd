"""Functions that a process without privileges runs for one that has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.traffic import wait_until

from flowstream.errors import FlowstreamError, SinkError, SourceError, UsageError
from flowstream.host import unprivileged
from flowstream.host.privileges import find_user

NOBODY = find_user("nobody")

# Other tests leave threads, which a process without privileges does not touch.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text(encoding="ascii").split()]


def test_the_caller_keeps_its_privileges():
    def work() -> tuple[int, ...]:
        held = int(next(line.split()[1] for line in status() if line.startswith("CapEff")), 16)
        return (*os.getresuid(), *os.getresgid(), len(os.getgroups()), held)

    def status() -> list[str]:
        return Path("/proc/self/status").read_text(encoding="ascii").splitlines()

    found = unprivileged.call(NOBODY, work, tuple[int, ...])
    assert found == (*[NOBODY.uid] * 3, *[NOBODY.gid] * 3, 0, 0)
    assert os.geteuid() == 0


def test_values_have_their_type():
    assert unprivileged.call(NOBODY, lambda: (7, b"\0\xff"), tuple[int, bytes]) == (7, b"\0\xff")
    with pytest.raises(FlowstreamError, match="ended without an answer"):
        unprivileged.call(NOBODY, lambda: "7", int)


@pytest.mark.parametrize("kind", [SinkError, SourceError, UsageError])
def test_errors_are_raised_again(kind):
    def work() -> int:
        raise kind("one line")

    with pytest.raises(kind, match=r"^one line$"):
        unprivileged.call(NOBODY, work, int)


@pytest.mark.parametrize(
    "end", [lambda: 1 // 0, lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)]
)
def test_a_process_that_ends_early_is_an_error(end, capfd):
    with pytest.raises(FlowstreamError, match="the process without privileges ended without"):
        unprivileged.call(NOBODY, end, int)
    assert capfd.readouterr().err.count("Traceback") <= 1


def test_an_answer_without_end_is_an_error():
    with pytest.raises(FlowstreamError, match="ended without an answer"):
        unprivileged.call(NOBODY, lambda: "x" * (1 << 27), str)


@pytest.mark.parametrize("wait", [lambda: time.sleep(3_600), signal.pause])
def test_time_is_limited(wait):
    before = children()
    with pytest.raises(TimeoutError):
        unprivileged.call(NOBODY, wait, int, 0.3)
    assert children() == before


def test_the_capabilities_of_the_service_are_enough():
    """CAP_KILL is none of them, and the process belongs to another user."""
    code = """
import time
from flowstream.host import privileges, unprivileged
user = privileges.find_user("nobody")
print(unprivileged.call(user, lambda: 7, int))
try:
    unprivileged.call(user, lambda: time.sleep(60), int, 0.3)
except TimeoutError:
    print("in time")
"""
    few = ("setpriv", "--bounding-set", "-all,+setuid,+setgid", "--inh-caps", "-all")
    done = subprocess.run(
        [*few, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("7\nin time\n", "")


def test_it_ends_with_the_process_that_started_it():
    code = """
import os, time
from flowstream.host import privileges, unprivileged
def work():
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)
unprivileged.call(privileges.find_user("nobody"), work, int)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = Path("/proc", process.stdout.readline().strip())
        # After the line it is about to sleep; the signal of the parent's death is set before.
        process.kill()
        process.wait()
    assert wait_until(lambda: not child.exists(), 30)
