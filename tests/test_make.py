"""The Makefile explains itself, and documents name targets that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

TOP = Path(__file__).parent.parent
MAKEFILE = (TOP / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, check=True, timeout=30
    ).stdout


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make ([a-z-]+) +\S.*$", make(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == TARGETS


def test_every_target_is_phony() -> None:
    phony = re.search(r"^\.PHONY: (.*?[^\\])$", MAKEFILE, re.MULTILINE | re.DOTALL)
    assert phony
    assert set(phony[1].replace("\\\n", " ").split()) == TARGETS


def test_unit_tests_exist() -> None:
    paths = re.findall(r"tests/test_\w+\.py", make("-n", "pythons"))
    assert len(paths) > 10
    assert [path for path in paths if not (TOP / path).is_file()] == []


def test_documents_name_targets_that_exist() -> None:
    documents = [*TOP.glob("*.md"), *TOP.glob("*/*.md"), TOP / ".ci" / "run"]
    named = {
        target
        for document in documents
        for target in re.findall(
            r"(?:^|`|sudo )make ([a-z-]+)", document.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {"demo", "test", "lint", "pythons"} <= named
    assert named <= TARGETS
