"""The spool: its checkpoint, a sidecar, a segment, as another process may leave them.

The first octet selects the file that has the rest as its content; the other files are
intact. Bit 7 corrects the checksums, so that the code behind them is reached.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.accounting.tally import Tally
from flowstream.errors import SinkError
from flowstream.messages import MessageBatch
from flowstream.segments.retention import Retention
from flowstream.segments.spool import Spool
from flowstream.streams import Stream
from fuzz.files import scratch
from fuzz.segments import repaired

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_PLACE: Final = scratch()
_TOPIC: Final = "t.flows"
_COUNTS: Final = (3, 5, 2)
_REPAIR: Final = 0x80
_CHECKPOINT, _TALLY, _LOG = range(3)
_U32: Final = struct.Struct(">I")
_MARKER: Final = b"\xf5TLY"
_MOST: Final = 1 << 16


def seeds() -> Sequence[bytes]:
    """Return the files of a spool, each as it is and to be corrected."""
    contents = [path.read_bytes() for path in _files(_made())]
    return [
        *(bytes([number]) + content for number, content in enumerate(contents)),
        *(bytes([number | _REPAIR]) + content for number, content in enumerate(contents)),
    ]


def target(data: bytes) -> None:
    """Open the spool and empty it: everything is read or counted, and nothing is left."""
    if not data or data[0] & ~_REPAIR > _LOG:
        return
    number, content = data[0] & ~_REPAIR, data[1:]
    directory = _made()
    if data[0] & _REPAIR:
        content = _REPAIRS[number](content)
    _files(directory)[number].write_bytes(content)
    spool = Spool(directory, retention=Retention(), compression="none")
    try:
        spool.open({_TOPIC: 1})
    except SinkError as err:
        assert "version" in str(err)
        return
    with spool:
        _empty(spool)
        assert spool.records == 0
        assert spool.amounts == {}
        spool.save()
        assert spool.octets == 0
    assert not list(directory.glob("*/*"))


def _empty(spool: Spool) -> None:
    before, records = spool.records, 0
    while (spooled := spool.read()) is not None:
        assert len(spooled.batch) > 0
        records += len(spooled.batch)
        assert records <= _MOST
        spool.acknowledge(spooled)
    assert records <= before + sum(_COUNTS)
    for gone in spool.gone():
        assert gone.records >= 0


def _made() -> Path:
    """A spool of three batches, of which the first is published."""
    directory = _PLACE / "spool"
    shutil.rmtree(directory, ignore_errors=True)
    with Spool(directory, retention=Retention(), compression="none") as spool:
        spool.open({_TOPIC: 1})
        for count in _COUNTS:
            n = np.arange(count, dtype=np.uint64)
            batch = MessageBatch(
                _TOPIC, 0, [1_700_000_000_000] * count, [None] * count, [b"value"] * count,
                stream=Stream.FLOWS, tally=Tally(n, n, n),
            )  # fmt: skip
            spool.append(batch, 1_024)
        spooled = spool.read()
        assert spooled is not None
        spool.acknowledge(spooled)
        spool.save({1_024: [b"counters"]})
    return directory


def _files(directory: Path) -> list[Path]:
    partition = directory / f"{_TOPIC}-0"
    return [
        directory / "checkpoint",
        *(partition / f"{0:020}.{suffix}" for suffix in ("tally", "log")),
    ]


def _repair_checkpoint(content: bytes) -> bytes:
    """Put magic, version, length and checksum right."""
    body = content[20:]
    prefix = b"fsspool\n" + _U32.pack(1) + _U32.pack(len(body))
    return prefix + _U32.pack(zlib.crc32(prefix + body)) + body


def _repair_tally(content: bytes) -> bytes:
    """Put the checksums of the entries right, where their lengths have sense."""
    data = bytearray(content)
    at = data.find(_MARKER)
    while 0 <= at <= len(data) - 20:
        length, octets = _U32.unpack_from(data, at + 8)[0], _U32.unpack_from(data, at + 12)[0]
        head_end = at + 20 + length
        if head_end + octets <= len(data):
            _U32.pack_into(data, at + 16, zlib.crc32(data[head_end : head_end + octets]))
            _U32.pack_into(data, at + 4, zlib.crc32(data[at + 8 : head_end]))
        at = data.find(_MARKER, at + 1)
    return bytes(data)


_REPAIRS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    _repair_checkpoint,
    _repair_tally,
    repaired,
)
