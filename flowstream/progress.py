"""How far it is, on standard error where that is a terminal; nothing of it anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


def progress_bars(amount: ProgressColumn) -> Progress:
    """Return bars whose ``amount`` is shown in that column: a context manager, disabled elsewhere.

    Standard output stays what it is: results go there.
    """
    return Progress(
        # A name may have brackets, which are rich's markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
        disable=not sys.stderr.isatty(),
    )
