"""Identifies a run over captures by everything that its records depend on."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from typing import TYPE_CHECKING, Final

from flowstream.accounting.identity import Identity, epoch_at
from flowstream.pcap.reader import CaptureFile
from flowstream.records.text import V4_MAPPED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowstream.config.pcap import CaptureConfig

HOST: Final = "pcap"
# A capture has no agent's address: 0.0.0.0.
_NO_ADDRESS: Final = V4_MAPPED + bytes(4)
# Octets between two checks for signals: hashing them takes about 10 ms.
_STEP: Final = 1 << 24
# Interval in ns, flows of the table, sampling.
_OPTIONS: Final = struct.Struct(">QQQ")


def identify(config: CaptureConfig) -> Identity:
    """Return the identity of a run: the same for the same captures and options, on any machine.

    Its epoch is the time of the first packet, rounded down, 0 when there is none. Its host id is
    a digest of the options that shape records and of the contents in their order.
    Raises SourceError when any file cannot be read up to its first packet.
    """
    epoch = _first_time(config.files)
    # Names of interfaces have 15 characters at most.
    names = {index: path.stem[:15] for index, path in enumerate(config.files, 1)}
    return Identity(epoch_at(epoch), _digest(config), HOST, _NO_ADDRESS, names)


def _first_time(files: Sequence[Path]) -> int:
    """Unix time in ns of the very first packet; every file is read up to its first one."""
    times = []
    for path in files:
        with CaptureFile(path) as file:
            times += [time_ns for time_ns, _, _ in itertools.islice(file.packets(), 1)]
    return times[0] if times else 0


def _digest(config: CaptureConfig) -> bytes:
    # SHA-256: processors have instructions for it, and each capture is read twice.
    digest = hashlib.sha256()
    interval_ns = round(config.interval_s * 1e9)
    digest.update(_OPTIONS.pack(interval_ns, config.max_flows, config.sampling))
    if config.sampling > 1:
        # Sampling is random: the same captures give different records every time.
        digest.update(os.urandom(16))
    for path in config.files:
        content = hashlib.sha256()
        with CaptureFile(path) as file:
            for part in file.parts(_STEP):
                content.update(part)
        digest.update(content.digest())
    return digest.digest()[:16]
