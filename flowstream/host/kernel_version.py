"""Version of the running kernel."""

from __future__ import annotations

import os
import re


def kernel_version() -> tuple[int, int]:
    """Major and minor version, (0, 0) where the name of the release has none."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
