"""``flowstream pcap`` in this process, and captures for it."""

from __future__ import annotations

import dataclasses
import os
import re
import struct
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from packets import reference
from packets.pcap_files import Packet

from flowstream.cli.main import main
from flowstream.records import CountersRecord, FlowRecord
from flowstream.testing.recorded import Recording

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest


BEGIN_NS = 1_500_000_000_000_000_000
SECOND_NS = 1_000_000_000
MAC = bytes.fromhex("020000000001020000000002")


def udp(n: int = 0, size: int = 0) -> bytes:
    """An IPv4 packet of flow ``n`` with ``size`` octets behind the UDP header."""
    length = struct.pack(">HH", 28 + size, 8 + size)
    head = b"\x45\0" + length[:2] + bytes(4) + b"\x40\x11\0\0" + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return head + struct.pack(">HH", 1000 + n, 53) + length[2:] + bytes(2) + bytes(size)


def frame(n: int = 0, size: int = 0) -> bytes:
    return MAC + b"\x08\0" + udp(n, size)


def packets(count: int, step_ns: int = 1_000_003_000) -> list[Packet]:
    return [Packet(BEGIN_NS + n * step_ns, frame(n % 3, n)) for n in range(count)]


class Published(NamedTuple):
    """What a run left: its flows, announcements and counters, and what it said.

    ``summary`` is what it says at a good end, ``error`` whatever else; ``file`` the first file.
    """

    status: int
    error: str
    summary: str
    recording: Recording
    file: Path

    @property
    def flows(self) -> list[FlowRecord]:
        records = self.recording.records("flowstream.flows")
        assert all(isinstance(record, FlowRecord) for record in records)
        return [record for record in records if isinstance(record, FlowRecord)]

    @property
    def counters(self) -> list[CountersRecord]:
        records = self.recording.records("flowstream.counters")
        assert all(isinstance(record, CountersRecord) for record in records)
        return [record for record in records if isinstance(record, CountersRecord)]

    def sums(self) -> dict[reference.FlowKey, reference.Reading]:
        """The flows by their keys, see ``summed``."""
        return summed(self.flows)

    def refused(self) -> dict[str, int]:
        non_ip = sum(counters.no_flow["non_ip"].packets for counters in self.counters)
        malformed = sum(counters.no_flow["malformed"].packets for counters in self.counters)
        return {k: n for k, n in (("non_ip", non_ip), ("malformed", malformed)) if n}


def summed(records: Iterable[FlowRecord]) -> dict[reference.FlowKey, reference.Reading]:
    """The reference's form of flows: records of a flow joined in the order of time."""
    table: dict[reference.FlowKey, reference.Reading] = {}
    names = [field.name for field in dataclasses.fields(reference.Reading)]
    for record in sorted(records, key=lambda record: record.seq):
        reading = reference.Reading(**{name: getattr(record, name) for name in names})
        known = table.setdefault(reading.key, reading)
        if known is not reading:
            table[reading.key] = dataclasses.replace(
                known,
                packets=known.packets + reading.packets,
                bytes=known.bytes + reading.bytes,
                l2_bytes=known.l2_bytes + reading.l2_bytes,
                tcp_flags=known.tcp_flags | reading.tcp_flags,
                ip_ttl=min(known.ip_ttl, reading.ip_ttl),
            )
    return table


RAISED = 70
"""Status of ``in_child`` after an exception."""


def in_child(argv: list[str]) -> tuple[int, str]:
    """Run ``flowstream`` in a child, which gives up its privileges; status and standard error."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        child = os.fork()
        if child == 0:
            status = RAISED
            try:
                os.dup2(errors.fileno(), 2)
                sys.stderr = errors
                status = main(argv)
            finally:
                errors.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(ended), errors.read()


class Runner:
    """Runs ``flowstream pcap``; what a run published must pass the audit if that reads it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._directory, self._capsys, self._runs = directory, capsys, 0

    def file(self, content: bytes, name: str = "test.pcap") -> Path:
        path = self._directory / name
        path.write_bytes(content)
        return path

    def __call__(
        self,
        *files: Path | bytes,
        options: Iterable[str] = (),
        audited: bool = True,
        into: str | None = None,
    ) -> Published:
        self._runs += 1
        to = self._directory / (into or f"run{self._runs}")
        paths = [
            self.file(given, f"{n}.pcap") if isinstance(given, bytes) else given
            for n, given in enumerate(files)
        ]
        status, error = in_child(["pcap", *map(str, paths), "--sink", f"file:{to}", *options])
        found = re.search(r"(?m)^[0-9,]+ packets? of .* -> .*\n\Z", error)
        summary = found[0] if found else ""
        if audited and to.exists():
            assert main(["audit", str(to)]) == 0, self._capsys.readouterr().out
            self._capsys.readouterr()
        return Published(status, error.removesuffix(summary), summary, Recording(to), paths[0])
