"""The attacher's process: that of an agent, and one that only a test talks to."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.attacher.process import Process
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.agent import Agent


def attacher_of(agent: Agent) -> int:
    """Process id of an agent's attacher."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text(encoding="ascii")
    (child,) = map(int, children.split())
    return child


def status(pid: int, field: str) -> str:
    """A field of /proc/PID/status, its words separated by one space."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    (found,) = re.findall(rf"^{field}:(.*)$", text, re.MULTILINE)
    return " ".join(found.split())


def is_gone(pid: int) -> bool:
    """Whether a process has ended and was reaped."""
    return not Path(f"/proc/{pid}").exists()


def ends(pid: int) -> bool:
    """Wait until a process has ended and was reaped."""
    return wait_until(lambda: is_gone(pid))


def descriptors(pid: int) -> dict[int, str]:
    """What each descriptor of a process is."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(path.name)] = str(path.readlink())
    return found


@contextlib.contextmanager
def process() -> Iterator[Process]:
    """An attacher's process that waits for its setup; gone at the end of the block."""
    with Process() as made:
        yield made
    assert is_gone(made.pid)
