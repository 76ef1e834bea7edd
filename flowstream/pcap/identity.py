"""Identifies a run over captures by everything that its records depend on."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.accounting.identity import Identity, epoch_at
from flowstream.pcap.reader import CaptureFile
from flowstream.records.text import V4_MAPPED, interface_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowstream.config.pcap import CaptureConfig
    from flowstream.pcap.file import FileVersion

HOST: Final = "pcap"
# A capture has no agent's address: 0.0.0.0.
_NO_ADDRESS: Final = V4_MAPPED + bytes(4)
# Octets between two checks for signals: hashing them takes about 10 ms.
_STEP: Final = 1 << 24
# Interval in ns, flows of the table, sampling.
_OPTIONS: Final = struct.Struct(">QQQ")


class Captures(NamedTuple):
    """A run's identity, and which version of each file it stands for."""

    identity: Identity
    versions: list[FileVersion]


def identify(config: CaptureConfig) -> Captures:
    """Identify a run: the same for the same captures and options, on any machine.

    Its epoch is the time of the first packet, rounded down, 0 when there is none. Its host id is
    a digest of the options that shape records and of the contents in their order.
    Raises SourceError when any file cannot be read up to its first packet.
    """
    epoch, versions = _first_time(config.files)
    names = {index: interface_name(path.stem) for index, path in enumerate(config.files, 1)}
    identity = Identity(epoch_at(epoch), _digest(config, versions), HOST, _NO_ADDRESS, names)
    return Captures(identity, versions)


def _first_time(files: Sequence[Path]) -> tuple[int, list[FileVersion]]:
    """Return Unix ns of the very first packet; every file is read up to its first one."""
    times: list[int] = []
    versions = []
    for path in files:
        with CaptureFile(path) as file:
            versions.append(file.version)
            times += [time_ns for time_ns, _, _ in itertools.islice(file.packets(), 1)]
    return times[0] if times else 0, versions


def _digest(config: CaptureConfig, versions: list[FileVersion]) -> bytes:
    # SHA-256: processors have instructions for it, and each capture is read twice.
    digest = hashlib.sha256()
    interval_ns = round(config.interval_s * 1e9)
    digest.update(_OPTIONS.pack(interval_ns, config.max_flows, config.sampling))
    if config.sampling > 1:
        # Sampling is random: the same captures give different records every time.
        digest.update(os.urandom(16))
    for path, version in zip(config.files, versions, strict=True):
        content = hashlib.sha256()
        with CaptureFile(path, version) as file:
            for part in file.parts(_STEP):
                content.update(part)
        digest.update(content.digest())
    return digest.digest()[:16]
