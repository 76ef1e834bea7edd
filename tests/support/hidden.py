"""Makes a Python process look as if it were elsewhere: imported first, in a process of its own.

``python -c "from support import hidden; hidden.hide(...)"``; of the names in ``POSIX`` nothing
is left, as on Windows.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - by sys.platform it would load what only Windows has
import os
import shutil  # noqa: F401 - likewise
import socket  # noqa: F401 - likewise
import subprocess  # noqa: F401 - likewise
import sys
import tempfile  # noqa: F401 - likewise

LIBRARIES = (
    *("aiokafka", "bcc", "cramjam", "fastavro", "google", "h11", "numpy", "plotly"),
    *("prometheus_client", "pyroute2", "pyarrow", "rich", "structlog", "textual", "uvloop"),
    "yacryptopan",
)
"""Everything that a consumer may be without."""
POSIX = ("fcntl", "grp", "pwd", "resource", "termios")
_FLAGS = ("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH")


class _Finder:
    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide(*names: str) -> None:
    """Let imports of these modules fail."""
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder(names))


def be_windows() -> None:
    """Hide what only POSIX systems have."""
    hide(*POSIX)
    for flag in _FLAGS:
        delattr(os, flag)
    sys.platform = "win32"
