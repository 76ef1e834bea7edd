"""Programs of the tests in Go, built by the Go of this environment, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "go"


def built(module: Path) -> Path:
    """Build the module in a directory; return the program."""
    # Nothing of a user's settings may choose another compiler or other modules.
    settings = {
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOPATH": str(CACHE / "path"),
        "GOCACHE": str(CACHE / "build"),
    }
    program = CACHE / module.name
    subprocess.run(
        [Path(sys.executable).parent / "go", "build", "-o", program, "."],
        check=True,
        cwd=module,
        env=os.environ | settings,
        timeout=300,
    )
    return program
