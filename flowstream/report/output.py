"""Writing a file whole: the one before stays until the new one is complete."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STANDARD_OUTPUT: Final = "-"


@contextmanager
def replacing(name: str) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes the content of the file ``name``, whole or not at all.

    A temporary file is beside it meanwhile, so that a directory that cannot be written to
    is known at once. "-" is standard output; what is no regular file, such as a pipe, is
    written to directly. Raises SinkError, as the function does.
    """
    # A link stays a link.
    path = Path(os.path.realpath(name))
    if name == _STANDARD_OUTPUT:
        yield sys.stdout.buffer.write
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield lambda content: _written(name, path, content)
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as err:
        raise _refused(name, err) from err
    os.close(descriptor)
    try:
        yield lambda content: _replaced(name, path, Path(temporary), content)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _written(name: str, path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as err:
        raise _refused(name, err) from err


def _replaced(name: str, path: Path, temporary: Path, content: bytes) -> None:
    try:
        temporary.write_bytes(content)
        temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else _new_mode())
        temporary.replace(path)
    except OSError as err:
        raise _refused(name, err) from err


def _refused(name: str, err: OSError) -> SinkError:
    return SinkError(f"{name}: {err.strerror}; use a file that can be written")


def _new_mode() -> int:
    """Mode of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
