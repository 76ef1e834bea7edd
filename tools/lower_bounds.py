"""Print the lowest version of each direct dependency that pyproject.toml permits.

python -m tools.lower_bounds    # constraints for pip (make lower-bounds)
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
FOR_DEVELOPMENT = ("dev", "docs", "fuzz", "release")
"""Extras that nothing at run time needs."""
_LOWEST = re.compile(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)")


def lowest_versions() -> dict[str, str]:
    """Return name and lowest version of what the package and its run-time extras require."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    required = [
        each for extra, all_of_it in extras if extra not in FOR_DEVELOPMENT for each in all_of_it
    ]
    lowest = {}
    for requirement in (*project["dependencies"], *required):
        match = _LOWEST.match(requirement)
        if match is None:
            raise SystemExit(f"{requirement}: no lower bound")
        lowest[match[1]] = match[2]
    return lowest


if __name__ == "__main__":
    for name, version in lowest_versions().items():
        print(f"{name}=={version}")
