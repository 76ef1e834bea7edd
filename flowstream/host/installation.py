"""Commands of this installation of flowstream, as child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import flowstream


def command(*arguments: str) -> list[str]:
    """Return the command line of ``flowstream`` with these arguments; see ``environment``."""
    # -P: nothing is imported from the working directory, which may be anybody's.
    return [sys.executable, "-P", "-m", "flowstream", *arguments]


def environment() -> dict[str, str]:
    """Return this process's environment, in which ``command`` finds the same installation."""
    paths = (str(Path(flowstream.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
