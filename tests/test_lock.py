"""Lock files: complete, by digest, of one version each; the package's version stands once."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import flowstream
from tools.lower_bounds import FOR_DEVELOPMENT, lowest_versions

TOP = Path(__file__).parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD, DEB, DEVELOPMENT, DOCS, FUZZ, RELEASE, IMAGE, EXAMPLES, GO = LOCKS = (
    "requirements-build.txt",
    "requirements-deb.txt",
    "requirements-dev.txt",
    "requirements-docs.txt",
    "requirements-fuzz.txt",
    "requirements-release.txt",
    "requirements.txt",
    "examples/requirements.txt",
    "tests/goflow2/requirements.txt",
)
OWN_LOCKS = {"docs": DOCS, "fuzz": FUZZ, "release": RELEASE}
"""Extras of targets that most developers never run, by their locks."""


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


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_a_pin_with_digests(lock: str) -> None:
    lines = (TOP / lock).read_text(encoding="utf-8").splitlines()
    first_words = {line.split()[0] for line in lines if line and line[0] not in " #"}
    assert first_words == {f"{package}=={version}" for package, (version, _) in pins(lock).items()}
    assert not any("://" in line or line.startswith("-") for line in lines)


@pytest.mark.parametrize("lock", [DEB, IMAGE])
def test_what_is_shipped_has_the_versions_that_are_tested(lock: str) -> None:
    tested, shipped = pins(DEVELOPMENT), pins(lock)
    assert shipped
    assert {name: tested.get(name) for name in shipped} == shipped


def test_the_fuzzer_is_all_that_its_lock_adds() -> None:
    tested, added = pins(DEVELOPMENT), pins(FUZZ)
    assert {name for name in added if tested.get(name) != added[name]} == {"atheris"}


@pytest.mark.parametrize(
    ("lock", "brought"),
    [(IMAGE, ("agent", "readers")), (DEB, ("agent", "anonymise", "readers", "report", "top"))],
)
def test_what_is_shipped_has_every_dependency_and_no_tool(
    lock: str, brought: tuple[str, ...]
) -> None:
    shipped = pins(lock).keys()
    extras = PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"]) <= shipped
    for extra in brought:
        assert names(extras[extra]) <= shipped
    assert not {"mypy", "pip", "pytest", "ruff", "setuptools"} & shipped


def test_development_has_every_extra() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        locked = pins(OWN_LOCKS.get(extra, DEVELOPMENT)).keys()
        assert names(requirements) <= locked


def test_every_dependency_has_a_lower_bound() -> None:
    extras = PROJECT["optional-dependencies"]
    required = [
        *PROJECT["dependencies"],
        *(r for e in extras if e not in FOR_DEVELOPMENT for r in extras[e]),
    ]
    assert lowest_versions().keys() == names(required)


def test_a_consumer_installs_msgspec_only() -> None:
    assert names(PROJECT["dependencies"]) == {"msgspec"}


def test_a_library_has_the_same_versions_in_every_extra() -> None:
    required = {r for extra in PROJECT["optional-dependencies"].values() for r in extra}
    assert len(names(list(required))) == len(required)


def test_agent_has_what_the_smaller_extras_have() -> None:
    extras = {name: set(each) for name, each in PROJECT["optional-dependencies"].items()}
    assert extras["kafka"] < extras["audit"] == extras["testing"] < extras["agent"]


def test_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert importlib.metadata.version("flowstream") == flowstream.__version__


INSTALLERS = [
    *("Makefile", "Dockerfile", "docs/installing.md", "bench/fleet/run.sh", "tools/pythons.sh"),
    "tests/newcomer/run.sh",
]
LOWEST = "$(LOWEST)/"
"""The unit tests with the lowest versions install what a range allows: no lock has it."""


@pytest.mark.parametrize("name", INSTALLERS)
def test_everything_is_installed_by_digest_or_from_the_checkout(name: str) -> None:
    """A build in isolation would download a setuptools of any version, and run it."""
    text = re.sub(r"\\\n\s*", " ", (TOP / name).read_text(encoding="utf-8"))
    for line in re.findall(
        r"(?m)^.*(?:pip\S* (?:--python \S+ )?(?:install|wheel)|PIP_INSTALL\)).*$", text
    ):
        # Where topics are read, an environment is its user's own.
        if line.startswith(("PIP_INSTALL", "|", "pip ", "`pip ")) or LOWEST in line:
            continue
        locked = "--require-hashes" in line
        own = "--no-deps" in line and ("--no-build-isolation" in line or "--no-index" in line)
        assert locked or own, line


def test_images_are_named_by_digest() -> None:
    for name in ("Dockerfile", "compose/compose.yaml", "compose/secure.yaml"):
        text = (TOP / name).read_text(encoding="utf-8")
        images = re.findall(r"(?m)^(?:ARG BASE=| +image: )([a-z].*)$", text)
        assert images
        for image in images:
            assert re.search(r"@sha256:[0-9a-f]{64}$", image), image
