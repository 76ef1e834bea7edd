"""The two lock files agree: the image runs what the tests ran with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOP = Path(__file__).parent.parent


def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and digests of every package of a lock file."""
    text = (TOP / name).read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.-]+)==(\S+) \\\n((?: +--hash=\S+(?: \\)?\n)+)", text, re.MULTILINE
    )
    return {
        package: (version, frozenset(re.findall(r"--hash=(\S+)", digests)))
        for package, version, digests in entries
    }


def test_image_has_the_versions_that_are_tested() -> None:
    tested, shipped = pins("constraints.txt"), pins("requirements.txt")
    assert shipped
    assert {name: tested.get(name) for name in shipped} == shipped


def test_image_has_every_dependency_and_no_tool() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}

    shipped = pins("requirements.txt").keys()
    extras = project["optional-dependencies"]
    assert names(project["dependencies"]) <= shipped
    assert names(extras["registry"]) | names(extras["readers"]) <= shipped
    assert not {"mypy", "pytest", "ruff", "setuptools"} & shipped
