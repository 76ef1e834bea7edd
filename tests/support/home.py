"""An installation below a directory of mode 0700, as below /root, where no import comes late."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import flowstream

SOURCES = Path(flowstream.__file__).parents[1]
STDLIB = Path(sysconfig.get_path("stdlib"))

# In a mount namespace of its own, which goes with the process: nothing is copied.
SCRIPT = """
set -e
home=$1; shift
chmod 700 $home
bind() { mkdir -p $home/$2; mount --bind $1 $home/$2; }
bind $SOURCES sources
bind $VENV venv
bind $STDLIB python/lib/$(basename $STDLIB)
export PYTHONHOME=$home/python PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=$home/sources/tests/support/late_imports
cd $home/sources
exec $home/venv/bin/python "$@"
"""


class Home:
    """Runs Python with an installation of everything below ``path``, which is root's alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._late = path.with_name("late-imports")
        self._late.touch()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs Python so, with ``environment``."""
        return ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(self.path), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that ``command`` needs."""
        places = {"SOURCES": str(SOURCES), "VENV": sys.prefix, "STDLIB": str(STDLIB)}
        return places | {"LATE_IMPORTS": str(self._late)}

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process; it is the one of the arguments, not a parent of it."""
        return subprocess.Popen(
            self.command(*arguments),
            env=os.environ | self.environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a process to its end."""
        with self.popen(*arguments) as process:
            try:
                output, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def late_imports(self) -> list[str]:
        """Names of the modules that processes wanted to import after they had given up root."""
        return self._late.read_text(encoding="utf-8").split()
