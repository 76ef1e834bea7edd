"""Removes everything from a directory of pins, also what this version cannot read."""

from __future__ import annotations

import contextlib
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.errors import KernelError
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel.bpffs import listed
from flowstream.kernel.flow import BUILD
from flowstream.kernel.generation import is_epoch
from flowstream.kernel.leftovers import Leftovers
from flowstream.kernel.pinned_link import PinnedLink
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.kernel.generation import Generation
    from flowstream.kernel.pin_directory import PinDirectory


@dataclass
class RemovedRun:
    """What was removed of one run.

    ``links`` are the numbers of the interfaces that its programs were taken off, by code of
    the attachment: 0 for one that is gone. ``fault`` says why the rest is unknown, if it is:
    ``books``, the octets of its books by number; ``counts``, exact, by code; and
    ``drained``, the packets that were in no record yet.
    """

    epoch: int
    links: dict[int, int] = field(default_factory=dict)
    fault: str = ""
    books: dict[int, bytes] = field(default_factory=dict)
    counts: dict[int, KernelCounts] = field(default_factory=dict)
    drained: int = 0


@dataclass
class Removal:
    """What was removed, oldest run first, and what is still there, with the reasons."""

    runs: list[RemovedRun] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def remove_all(directory: PinDirectory, end_reason: int) -> Removal:
    """Take all programs off their interfaces, count what they left, and remove all pins.

    The directory goes too, if nothing is left in it. What is no pin is neither followed nor
    removed. Blocks, about 100 ms for each run.
    """
    removal = Removal()
    with ExitStack() as stack:
        doomed = [
            stack.enter_context(contextlib.closing(each)) for each in _open(directory, removal)
        ]
        # All links first: a link that was taken over has its program in a later run's maps.
        for each in doomed:
            each.detach()
        for each in doomed:
            each.count(end_reason)
            removal.runs.append(each.run)
            removal.left += each.remove()
    if not removal.left:
        with contextlib.suppress(OSError):
            Path(directory.path).rmdir()
    return removal


def _open(directory: PinDirectory, removal: Removal) -> Iterator[_Doomed]:
    names = listed(directory.fd)
    removal.left += [
        f"{directory.path}/{name}: not made by flowstream"
        for name in sorted(names)
        if not is_epoch(name)
    ]
    for epoch in sorted(int(name) for name in names if is_epoch(name)):
        try:
            yield _Doomed(directory.generation(epoch))
        except KernelError as err:
            removal.left.append(str(err))


class _Doomed:
    """A generation that is about to go."""

    def __init__(self, generation: Generation) -> None:
        self.run = RemovedRun(generation.epoch)
        self._generation = generation
        self._leftovers: Leftovers | None = None
        try:
            self._leftovers = Leftovers(generation, bpf_compile.obtain(BUILD))
        except KernelError as err:
            self.run.fault = str(err)

    def detach(self) -> None:
        """Take the programs of all links that can be read off their interfaces."""
        for name in sorted(listed(self._generation.fd)):
            code = name.removeprefix("link-")
            if name == code or not code.isdecimal():
                continue
            # Of another kind or version: it goes with the other pins.
            with contextlib.suppress(KernelError):
                with PinnedLink(self._generation, int(code)) as link:
                    index = link.if_index
                    link.detach()
                self.run.links[int(code)] = index

    def count(self, end_reason: int) -> None:
        """Freeze what the programs left and count it."""
        if self._leftovers is None:
            return
        try:
            self._leftovers.freeze()
            self.run.books = dict(self._leftovers.books.items())
            self.run.counts = {
                code: self._leftovers.counters(code) for code in self._leftovers.codes
            }
            for stream, batch in self._leftovers.drain(end_reason):
                if stream is Stream.FLOWS:
                    self.run.drained += int(batch["packets"].sum())
        except KernelError as err:
            self.run.fault = str(err)

    def remove(self) -> list[str]:
        """Remove all pins; return the paths of what is none, which keeps the directory."""
        generation = self._generation
        left = []
        for name in sorted(listed(generation.fd)):
            path = f"{generation.path}/{name}"
            try:
                if stat.S_ISREG(os.lstat(name, dir_fd=generation.fd).st_mode):
                    os.unlink(name, dir_fd=generation.fd)
                else:
                    left.append(f"{path}: not a pin")
            except OSError as err:
                left.append(f"{path}: {err.strerror}")
        if not left:
            generation.remove()
        return left

    def close(self) -> None:
        """Release all descriptors."""
        if self._leftovers:
            self._leftovers.close()
        self._generation.close()
