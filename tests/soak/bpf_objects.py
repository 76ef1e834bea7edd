"""BPF objects of an agent: those that its processes hold, and those that outlive it."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import suppress
from ctypes import byref, c_uint32
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.kernel import libbpf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.agent import Agent

_ID: Final = re.compile(r"^(map_id|prog_id|link_id):\s+([0-9]+)$", re.MULTILINE)
_KINDS: Final = {"map_id": "map", "prog_id": "prog", "link_id": "link"}
NOTE_S: Final = 1.0


class Objects:
    """Notes the objects that an agent and its child processes hold, once a second."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._seen: set[tuple[str, int]] = set()
        self._due = 0.0

    def _processes(self) -> Iterator[Path]:
        pid = self._agent.pid
        yield Path(f"/proc/{pid}")
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from (Path(f"/proc/{child}") for child in children.read_text().split())

    def held(self) -> dict[str, int]:
        """Descriptors by what they are of: maps, programs, links, sockets, other files."""
        kinds: Counter[str] = Counter()
        for process in self._processes():
            for fd in process.glob("fd/*"):
                with suppress(OSError):
                    kinds[re.sub(r"[\d/].*", "", str(fd.readlink())) or "file"] += 1
        return dict(kinds)

    def note(self) -> None:
        """Note the objects of now, unless that was done within the last second."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + NOTE_S
        self._seen |= self._now()

    def _now(self) -> set[tuple[str, int]]:
        found = set()
        for process in self._processes():
            for info in process.glob("fdinfo/*"):
                with suppress(OSError):
                    kinds = _ID.findall(info.read_text())
                    # A link names its program, too.
                    found |= {(_KINDS[kind], int(number)) for kind, number in kinds}
        return found

    def leaked(self) -> set[tuple[str, int]]:
        """Objects that the agent held, does not hold, and that exist all the same."""
        return (self._seen - self._now()) & set(_existing())


def _existing() -> Iterator[tuple[str, int]]:
    """Every map, program and link of the kernel, by BPF_*_GET_NEXT_ID."""
    for kind in _KINDS.values():
        step, number = getattr(libbpf.library(), f"bpf_{kind}_get_next_id"), c_uint32(0)
        while step(number, byref(number)) == 0:
            yield kind, number.value
