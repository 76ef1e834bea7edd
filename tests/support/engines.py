"""Programs that the stream engines' Python runs, in the virtual environment of make examples."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from bench.fleet.check import ENGINES

if TYPE_CHECKING:
    from pathlib import Path


def ask_engines(program: Path, order: object, timeout_s: float) -> Any:
    """What a program answers to an order, both as JSON."""
    done = subprocess.run(
        [ENGINES / "python", program],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
