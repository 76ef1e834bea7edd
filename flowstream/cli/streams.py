"""Standard streams that the caller has closed, as by ``>&-``."""

from __future__ import annotations

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


def open_closed_streams() -> None:
    """Occupy the descriptors 0 to 2 that are closed.

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
