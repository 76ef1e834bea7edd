"""A directory for the files of a target, which it overwrites for every input."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path


def scratch() -> Path:
    """Return a directory that is removed at the end of the process."""
    # In memory: thousands of files a second would wear a disk.
    directory = tempfile.TemporaryDirectory(prefix="flowstream-fuzz-", dir="/dev/shm")
    atexit.register(directory.cleanup)
    return Path(directory.name)
