"""Identifies a run over captures by everything that its records depend on."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.accounting.identity import Identity, epoch_at
from flowstream.host import unprivileged
from flowstream.pcap.file import FileVersion  # noqa: TC001 - msgspec evaluates it
from flowstream.pcap.reader import CaptureFile
from flowstream.records.text import V4_MAPPED, interface_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.config.pcap import CaptureConfig
    from flowstream.host.privileges import User
    from flowstream.pcap.inputs import Input

HOST: Final = "pcap"
# A capture has no agent's address: 0.0.0.0.
_NO_ADDRESS: Final = V4_MAPPED + bytes(4)
# Interval in ns, flows of the table, sampling.
_OPTIONS: Final = struct.Struct(">QQQ")


class Captures(NamedTuple):
    """A run's identity, its files, and which version of each file it stands for."""

    identity: Identity
    inputs: Sequence[Input]
    versions: list[FileVersion]


class Measured(NamedTuple):
    """Result of reading all files before the run: first time in Unix ns, digest, versions."""

    epoch: int
    digest: bytes
    versions: list[FileVersion]


def identify(config: CaptureConfig, inputs: Sequence[Input], user: User) -> Captures:
    """Identify a run: the same for the same captures and options, on any machine.

    Its epoch is the time of the first packet, rounded down, 0 when there is none. Its host id is
    a digest of the options that shape records and of the contents in their order. The files
    are read by a process that has become ``user``.
    Raises SourceError when any file cannot be read up to its first packet.
    """
    found = unprivileged.call(user, functools.partial(measure, config, inputs), Measured)
    names = {index: interface_name(path.stem) for index, (path, _) in enumerate(inputs, 1)}
    identity = Identity(epoch_at(found.epoch), found.digest, HOST, _NO_ADDRESS, names)
    return Captures(identity, inputs, found.versions)


def measure(config: CaptureConfig, inputs: Sequence[Input]) -> Measured:
    """Read every file up to its first packet, then whole for the digest."""
    epoch, versions = _first_time(inputs)
    return Measured(epoch, _digest(config, inputs, versions), versions)


def _first_time(inputs: Sequence[Input]) -> tuple[int, list[FileVersion]]:
    """Return Unix ns of the very first packet; every file is read up to its first one."""
    times: list[int] = []
    versions = []
    for path, descriptor in inputs:
        with CaptureFile(path, descriptor=descriptor) as file:
            versions.append(file.version)
            times += [time_ns for time_ns, _, _ in itertools.islice(file.packets(), 1)]
    return times[0] if times else 0, versions


def _digest(
    config: CaptureConfig, inputs: Sequence[Input], versions: Sequence[FileVersion]
) -> bytes:
    # SHA-256: processors have instructions for it, and each capture is read twice.
    digest = hashlib.sha256()
    interval_ns = round(config.interval_s * 1e9)
    digest.update(_OPTIONS.pack(interval_ns, config.max_flows, config.sampling))
    if config.filter is not None:
        digest.update(hashlib.sha256(config.filter.encode()).digest())
    if config.sampling > 1:
        # Sampling is random: the same captures give different records every time.
        digest.update(os.urandom(16))
    for (path, descriptor), version in zip(inputs, versions, strict=True):
        content = hashlib.sha256()
        with CaptureFile(path, version, descriptor) as file:
            for part in file.parts():
                content.update(part)
        digest.update(content.digest())
    return digest.digest()[:16]
