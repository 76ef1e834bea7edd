"""Progress bars on standard error, on a terminal only."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


def progress_bars(*, octets: bool = False) -> Progress:
    """Return a context manager for bars that count items, or octets; disabled off a terminal.

    Standard output is left alone: results go there.
    """
    return Progress(
        # A name may have brackets, which are rich's markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn() if octets else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
        disable=not sys.stderr.isatty(),
    )
