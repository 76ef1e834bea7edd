"""BPF file systems of a test's own: nothing is put into the machine's /sys/fs/bpf."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def mounted(where: Path) -> Iterator[Path]:
    """Mount one on a directory, which is made; with the last mount its pins are gone."""
    where.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(where)], check=True)
    try:
        yield where
    finally:
        # Lazily: descriptors that a failed test left open must not keep it there.
        subprocess.run(["umount", "--lazy", str(where)], check=True)
