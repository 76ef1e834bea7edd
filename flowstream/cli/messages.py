"""Lines on standard error that are no log: what stands in the way, and what is worth knowing."""

from __future__ import annotations

import sys


def complain(text: str) -> None:
    """Say why the command ends."""
    print(f"flowstream: error: {text}", file=sys.stderr)


def warn(text: str) -> None:
    """Say what the user should know although the command goes on."""
    print(f"flowstream: warning: {text}", file=sys.stderr)
