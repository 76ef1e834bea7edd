"""Processes of another user than root, and the places that they can reach."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

AS_NOBODY: Final = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    # The installation may be below a directory that only root can read, as /root.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
"""Before a command: it can read everything, and do nothing else that nobody cannot do."""


def open_to_all(directory: Path) -> None:
    """Let every user reach a test's temporary directory."""
    temporary = Path(tempfile.gettempdir())
    for each in (directory, *directory.parents):
        if each == temporary:
            return
        each.chmod(0o755)
