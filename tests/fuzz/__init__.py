"""Fuzzing of everything that is read from outside.

A target is a module with two functions: ``target(data)`` reads ``data`` and asserts the
contract of the reader, ``seeds()`` returns valid inputs to begin with. It may have
``mutate(data, rng)``, which changes an input by its form. An exception that leaves
``target`` is a finding. ``python -m fuzz`` runs the targets, guided by coverage;
``corpus/TARGET/`` has the inputs of former findings, which ``tests/test_fuzz.py`` replays.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TARGETS: Final = {
    "values": "values of records in every format, by decode and by the audit",
    "top": "values of records in the live table",
    "segments": "log segments of recordings, compressed ones too",
    "spool": "checkpoint, sidecars and segments of a spool",
    "books": "books of runs in a map of the kernel",
    "captures": "pcap and pcapng files",
    "registry": "answers of a schema registry",
    "broker": "answers of a Kafka broker",
    "tokens": "answers of an OAuth token endpoint",
    "configuration": "configuration files in TOML",
    "options": "command lines",
    "objects": "kernel objects, as embedded and as cached",
    "children": "answers of processes without privileges",
    "filters": "filters of classic BPF, and the packets that they accept",
    "attacher": "requests to the process that attaches",
    "links": "messages of the kernel about links",
    "requests": "requests for metrics and health",
    "texts": "URLs, addresses and identifiers",
}
"""Module of each target, and its inputs."""

CORPUS: Final = Path(__file__).with_name("corpus")


class Target(Protocol):
    """A module that is a target."""

    def target(self, data: bytes) -> None:
        """Read ``data`` and assert the contract of its reader."""

    def seeds(self) -> Sequence[bytes]:
        """Return valid inputs of every kind."""


def load(name: str) -> Target:
    """Import the target ``name``."""
    return cast("Target", importlib.import_module(f"fuzz.{name}"))


def saved(name: str) -> Iterator[Path]:
    """Yield the files of the saved corpus of a target, in order."""
    yield from sorted((CORPUS / name).glob("*"))
