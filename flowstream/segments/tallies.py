"""Sidecars of the spool: BASE.tally beside BASE.log has an entry for each record batch.

A file header, then entries: a frame, its head (MessagePack) and the tally of the batch,
packed. An entry is written before its batch. Each part has a checksum; after damage the
next entry is found by its marker.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.tally import Tally
from flowstream.segments.batches import HEADER
from flowstream.streams import Stream  # noqa: TC001 - msgspec reads the annotations
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

VERSION: Final = 1
_MAGIC: Final = b"fstally\n"
_FILE_HEADER: Final = struct.Struct(">8sII")  # magic, version, checksum of both
_MARKER: Final = b"\xf5TLY"
# Marker, checksum of the rest and the head, length of the head, length and checksum of the tally.
_FRAME: Final = struct.Struct(">4sIIII")
_CHECKED: Final = struct.Struct(">III")
_MAX_HEAD: Final = 1 << 20
MAX_OCTETS: Final = 1 << 30
"""Octets of a batch."""
MAX_RECORDS: Final = 1 << 24
"""Records in a batch of 100 MiB, which have at least 7 octets each."""
_WIDTHS: Final = (1, 2, 4, 8)
_CONSTANT: Final = 0
_U64: Final = struct.Struct("<Q")

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# MessagePack has no larger integers than 2**64 - 1.
Wide = Annotated[int, msgspec.Meta(ge=0)]


class Sum(NamedTuple):
    """Amounts of one attachment (its code in a ``Tally``) in a batch."""

    attachment: Wide
    records: Unsigned
    packets: Wide
    l2_bytes: Wide


def amounts_of(sums: Iterable[Sum]) -> dict[AttachmentKey, RecordAmount]:
    """Return sums by attachment."""
    return {AttachmentKey.of_code(each[0]): RecordAmount(*each[1:]) for each in sums}


def sums_of(amounts: Mapping[AttachmentKey, RecordAmount]) -> tuple[Sum, ...]:
    """Return amounts by attachment as sums, in the order of the attachments."""
    return tuple(Sum(key.code, *amount) for key, amount in sorted(amounts.items()))


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is known of a batch: ``position`` and ``octets`` in the segment, times in ms.

    ``agent_epoch`` is None for a batch without an entry, whose header told the rest.
    """

    base_offset: Unsigned
    records: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECORDS)]
    position: Unsigned
    octets: Annotated[int, msgspec.Meta(ge=HEADER.size, le=MAX_OCTETS)]
    first_ms: int
    newest_ms: int
    agent_epoch: Unsigned | None
    stream: Stream | None
    in_doubt: bool
    sums: tuple[Sum, ...]

    @property
    def end(self) -> int:
        """The offset after its last record."""
        return self.base_offset + self.records

    def amounts(self) -> dict[AttachmentKey, RecordAmount]:
        """Sums by attachment, empty where they are unknown."""
        return amounts_of(self.sums)


class Located(NamedTuple):
    """An entry, and where in the sidecar its packed tally is; 0 octets if it has none."""

    entry: Entry
    tally_at: int = 0
    tally_octets: int = 0
    tally_crc: int = 0


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Entry).decode


def file_header() -> bytes:
    """Return the octets that a sidecar begins with."""
    start = _FILE_HEADER.pack(_MAGIC, VERSION, 0)[:-4]
    return start + zlib.crc32(start).to_bytes(4, "big")


FIRST_ENTRY: Final = _FILE_HEADER.size


def foreign_version(data: bytes) -> int | None:
    """Return the version of an intact header of another version, else None."""
    if len(data) < _FILE_HEADER.size:
        return None
    magic, version, checksum = _FILE_HEADER.unpack_from(data)
    intact = magic == _MAGIC and zlib.crc32(data[: _FILE_HEADER.size - 4]) == checksum
    return int(version) if intact and version != VERSION else None


def pack_entry(entry: Entry, tally: Tally | None) -> bytes:
    """Return the octets of one entry."""
    packed = b"" if tally is None else pack_tally(tally)
    head = _ENCODE(entry)
    checked = _CHECKED.pack(len(head), len(packed), zlib.crc32(packed)) + head
    return b"".join((_MARKER, zlib.crc32(checked).to_bytes(4, "big"), checked, packed))


def entries(data: bytes, start: int = 0) -> Iterator[Located]:
    """Yield the intact entries; damage between them is passed over.

    ``data`` is the sidecar from position ``start`` on.
    """
    at = data.find(_MARKER)
    while 0 <= at <= len(data) - _FRAME.size:
        located = _entry_at(data, at)
        if located is None:
            at = data.find(_MARKER, at + 1)
            continue
        end = located.tally_at + located.tally_octets
        yield located._replace(tally_at=start + located.tally_at)
        at = data.find(_MARKER, end)


def _entry_at(data: bytes, at: int) -> Located | None:
    _, checksum, length, tally_octets, tally_crc = _FRAME.unpack_from(data, at)
    begin = at + _FRAME.size
    if length > _MAX_HEAD or begin + length > len(data):
        return None
    checked = data[begin - _CHECKED.size : begin + length]
    if zlib.crc32(checked) != checksum:
        return None
    try:
        entry = _DECODE(checked[_CHECKED.size :])
    except UNDECODABLE:
        return None
    return Located(entry, begin + length, tally_octets, tally_crc)


def pack_tally(tally: Tally) -> bytes:
    """Pack a tally: each column in as few octets as its largest value needs."""
    columns = (tally.attachments, tally.packets, tally.l2_bytes)
    return zlib.compress(b"".join(part for each in columns for part in _pack_column(each)), 1)


def _pack_column(column: NDArray[np.uint64]) -> tuple[bytes, bytes]:
    largest = int(column.max()) if len(column) else 0
    if not len(column) or largest == int(column.min()):
        return bytes([_CONSTANT]), _U64.pack(largest)
    width = next(width for width in _WIDTHS if largest < 1 << 8 * width)
    return bytes([width]), column.astype(f"<u{width}").tobytes()


def unpack_tally(packed: bytes, records: int, checksum: int) -> Tally:
    """Return the tally of that many records; ValueError where it is something else."""
    if zlib.crc32(packed) != checksum:
        raise ValueError("a tally with a wrong checksum")
    most = 3 * (1 + 8 * max(records, 1))
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, most)
    except zlib.error as err:
        raise ValueError(f"a tally that cannot be unpacked: {err}") from err
    columns = []
    at = 0
    for _ in range(3):
        column, at = _unpack_column(data, at, records)
        columns.append(column)
    if at != len(data) or not unpacker.eof:
        raise ValueError("a tally that is too long")
    return Tally(*columns)


def _unpack_column(data: bytes, at: int, records: int) -> tuple[NDArray[Any], int]:
    width = data[at] if at < len(data) else -1
    if width != _CONSTANT and width not in _WIDTHS:
        raise ValueError(f"a tally's column of {width} octets")
    end = at + 1 + (width * records if width else _U64.size)
    if end > len(data):
        raise ValueError("a tally that is too short")
    if width == _CONSTANT:
        return np.full(records, _U64.unpack_from(data, at + 1)[0], np.uint64), end
    return np.frombuffer(data, f"<u{width}", records, at + 1).astype(np.uint64), end
