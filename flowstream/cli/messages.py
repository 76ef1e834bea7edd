"""Errors and warnings of a command, as lines on standard error."""

from __future__ import annotations

import sys


def complain(text: str) -> None:
    """Print the error that ends the command."""
    print(f"flowstream: error: {text}", file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning; the command continues."""
    print(f"flowstream: warning: {text}", file=sys.stderr)
