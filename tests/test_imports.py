"""Imports go one way: who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flowstream

PACKAGE = Path(flowstream.__file__).parent
CAPTURE = "flowstream.kernel"
PUBLISHING = (
    *("flowstream.kafka", "flowstream.segments", "flowstream.delivery"),
    *("flowstream.sink", "flowstream.source"),
)
COMPOSITION = (
    *("flowstream.agent", "flowstream.cli", "flowstream.demo", "flowstream.check"),
    *("flowstream.pcap", "flowstream.recording", "flowstream.testing"),
)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """What a module imports anywhere, also inside functions; absolute names."""
    found = set()
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def users_of(*packages: str) -> set[str]:
    """Modules that import any of these packages, those of the packages themselves left out."""
    return {
        module
        for module in MODULES
        if not within(module, *packages)
        and any(within(name, *packages) for name in imported(module))
    }


def test_the_modules_are_found():
    assert {"flowstream.agent.run", "flowstream.kernel.flow", "flowstream.kafka.sink"} <= set(
        MODULES
    )
    assert "aiokafka.errors" in imported("flowstream.kafka.sink")
    assert "flowstream.kernel.flow.FlowProbe" in imported("flowstream.agent.run")


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("aiokafka", (*PUBLISHING, "flowstream.testing")),
        ("bcc", (CAPTURE,)),
        ("ctypes", (CAPTURE, "flowstream.host.privileges", "flowstream.host.namespaces")),
        ("uvloop", COMPOSITION),
        ("rich", (*COMPOSITION, "flowstream.audit.tables", "flowstream.progress")),
        ("argparse", ("flowstream.cli",)),
        ("pyroute2", ("flowstream.host.interfaces",)),
        ("confluent_kafka", ("flowstream.registry.client",)),
        ("cramjam", ("flowstream.segments.compression",)),
        ("fastavro", ("flowstream.records.avro_form",)),
        ("google", ("flowstream.records.protobuf_form",)),
    ],
)
def test_a_library_has_its_owners(library, owners):
    users = users_of(library)
    assert {module for module in users if not within(module, *owners)} == set()


def test_every_library_of_the_table_is_used():
    internal = ("aiokafka", "bcc", "ctypes", "uvloop", "rich", "argparse", "pyroute2")
    for library in (*internal, "confluent_kafka", "cramjam", "fastavro", "google"):
        assert users_of(library), library


def test_bcc_is_only_in_the_child():
    assert users_of("bcc") == {"flowstream.kernel.bcc_child"}
    # It runs under another interpreter, which has no flowstream.
    assert not any(within(name, "flowstream") for name in imported("flowstream.kernel.bcc_child"))


def test_capture_knows_nothing_of_what_comes_after():
    after = (*PUBLISHING, "flowstream.encode", "flowstream.audit")
    for module in (module for module in MODULES if within(module, CAPTURE)):
        forbidden = {name for name in imported(module) if within(name, *after, *COMPOSITION)}
        assert forbidden == set(), module


@pytest.mark.parametrize(
    "package",
    [*PUBLISHING, "flowstream.encode", "flowstream.records", "flowstream.audit",
     "flowstream.accounting.ledger", "flowstream.config"],
)  # fmt: skip
def test_what_comes_after_knows_nothing_of_the_capture(package):
    for module in (module for module in MODULES if within(module, package)):
        names = imported(module)
        assert not any(within(name, CAPTURE, *COMPOSITION) for name in names), module


def test_only_the_composition_sees_both_ends():
    both = users_of(CAPTURE) & users_of(*PUBLISHING)
    assert "flowstream.agent.run" in both
    assert {module for module in both if not within(module, *COMPOSITION)} == set()


@pytest.mark.parametrize("package", ["flowstream.encode", "flowstream.records"])
def test_codecs_are_pure(package):
    """No loop, no logging, no clock."""
    for module in (module for module in MODULES if within(module, package)):
        impure = {"asyncio", "logging", "structlog", "time", "datetime"}
        assert not impure & imported(module), module


def test_errors_know_nobody():
    assert not any(within(name, "flowstream") for name in imported("flowstream.errors"))
