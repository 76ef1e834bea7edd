"""Captures by descriptor: opened with privileges, read without."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

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
    """Open all files until the end of the block. Raises SourceError."""
    with ExitStack() as stack:
        yield [Input(path, stack.enter_context(open_file(path)).fileno()) for path in paths]
