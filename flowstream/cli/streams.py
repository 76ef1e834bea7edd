"""Standard streams as the commands need them, whatever the caller has made of them."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

# Writing to a descriptor that is open for reading fails as it would fail on a closed one.
# Messages on standard error are lost without a further error.
_REPLACEMENTS: Final = (
    ("stdin", os.O_RDONLY, "r"),
    ("stdout", os.O_RDONLY, "w"),
    ("stderr", os.O_WRONLY, "w"),
)


def buffer_output() -> None:
    """Give standard output the buffer that PYTHONUNBUFFERED takes from it.

    Without one Python writes once, and drops what the system does not take of it, as on a
    disk that is full. Lines are written at once.
    """
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = os.fdopen(
            sys.stdout.fileno(), "w", 1, encoding=encoding, errors=errors, closefd=False
        )


def open_closed_streams() -> None:
    """Occupy the descriptors 0 to 2 that are closed, as by ``>&-``.

    Otherwise the next file or socket would get such a number, and receive what any
    library prints. Writing to a closed standard output stays an error (EBADF).
    """
    for number, (name, flags, mode) in enumerate(_REPLACEMENTS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free descriptor: those below are open.
            os.open(os.devnull, flags)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
