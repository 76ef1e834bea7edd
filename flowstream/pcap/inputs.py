"""Captures by descriptor: opened with privileges, read without."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from flowstream.errors import UsageError
from flowstream.pcap.file import open_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Input(NamedTuple):
    """A file that is open; its path is for messages and names."""

    path: Path
    descriptor: int


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Input]]:
    """Open all files until the end of the block.

    Raises SourceError, and UsageError for a file that is named twice, by any path.
    """
    with ExitStack() as stack:
        inputs = [Input(path, stack.enter_context(open_file(path)).fileno()) for path in paths]
        _check_different(inputs)
        yield inputs


def _check_different(inputs: Sequence[Input]) -> None:
    """Refuse a file that would be counted twice."""
    known: dict[tuple[int, int], Path] = {}
    for path, descriptor in inputs:
        status = os.fstat(descriptor)
        file = status.st_dev, status.st_ino
        if file in known:
            raise UsageError(f"{path}: the same file as {known[file]}; name it once")
        known[file] = path
