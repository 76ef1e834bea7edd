"""Child processes run the same flowstream, wherever they are."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import flowstream
from flowstream.host import installation

if TYPE_CHECKING:
    from pathlib import Path


def test_a_child_imports_nothing_from_its_working_directory(tmp_path: Path) -> None:
    for name in ("flowstream", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the working directory')\n")
    done = subprocess.run(
        installation.command("--version"),
        cwd=tmp_path,
        env=installation.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"flowstream {flowstream.__version__}\n")
    assert not done.stderr
