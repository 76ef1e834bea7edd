"""Errors and warnings of a command, as lines on standard error."""

from __future__ import annotations

import contextlib
import sys

from flowstream.wording import printable


def complain(text: str, *more: str) -> None:
    """Print the error that ends the command, and more lines about it."""
    for line in (f"flowstream: error: {text}", *more):
        _print(line)


def warn(text: str) -> None:
    """Print a warning; the command continues."""
    _print(f"flowstream: warning: {text}")


def _print(line: str) -> None:
    # Without a reader, as after the terminal was closed, the exit status has to do.
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr)
