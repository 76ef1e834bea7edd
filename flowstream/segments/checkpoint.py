"""The spool's checkpoint: what was published, and the runs whose records wait.

A small file that is replaced atomically. Its prefix (magic, version, length and checksum)
is the same in every version.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from flowstream.errors import FlowstreamError
from flowstream.segments.directory import write_at
from flowstream.segments.spooled import Lost  # noqa: TC001 - msgspec reads the annotations
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from flowstream.segments.directory import Directory

NAME: Final = "checkpoint"
NEW_NAME: Final = "checkpoint.new"
VERSION: Final = 1
_MAGIC: Final = b"fsspool\n"
_PREFIX: Final = struct.Struct(">8sII")
_CRC: Final = struct.Struct(">I")
_LARGEST: Final = 64 << 20

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Position(msgspec.Struct, array_like=True, frozen=True):
    """Published offsets of a partition: all below ``next``, and ranges beyond it.

    ``doubtful`` are the first offsets of batches that were sent and not answered.
    """

    next: Offset = 0
    beyond: list[tuple[Offset, Offset]] = []
    doubtful: list[Offset] = []


class Checkpoint(msgspec.Struct, frozen=True):
    """``partitions`` by TOPIC-PARTITION; ``runs``: counters records by ``agent_epoch``.

    ``gone`` was not in the books yet when it was written.
    """

    partitions: dict[str, Position] = {}
    runs: dict[int, list[bytes]] = {}
    gone: list[Lost] = []


class UnknownVersionError(FlowstreamError):
    """The file is of a version that this release does not know."""


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Checkpoint).decode


def pack(checkpoint: Checkpoint) -> bytes:
    """Return the octets of the file."""
    body = _ENCODE(checkpoint)
    prefix = _PREFIX.pack(_MAGIC, VERSION, len(body))
    return prefix + _CRC.pack(zlib.crc32(prefix + body)) + body


def unpack(data: bytes) -> Checkpoint:
    """Read the file's octets; ValueError where they are damaged.

    Raises ``UnknownVersionError`` for an intact file of another version.
    """
    begin = _PREFIX.size + _CRC.size
    if len(data) < begin:
        raise ValueError("it is cut short")
    magic, version, length = _PREFIX.unpack_from(data)
    (checksum,) = _CRC.unpack_from(data, _PREFIX.size)
    body = data[begin:]
    if magic != _MAGIC or length != len(body):
        raise ValueError("wrong magic or length")
    if zlib.crc32(data[: _PREFIX.size] + body) != checksum:
        raise ValueError("a wrong checksum")
    if version != VERSION:
        raise UnknownVersionError(f"version {version} of the format")
    try:
        return _DECODE(body)
    except UNDECODABLE as err:
        raise ValueError(str(err)) from err


def read(directory: Directory) -> bytes | None:
    """Return the file's octets, None without a file; OSError, SinkError for a link."""
    try:
        with directory.opened(NAME) as descriptor:
            return os.read(descriptor, _LARGEST)
    except FileNotFoundError:
        return None


def write(directory: Directory, checkpoint: Checkpoint) -> None:
    """Replace the file, durably; OSError where that is not certain."""
    with contextlib.suppress(FileNotFoundError):
        directory.remove(NEW_NAME)
    descriptor = directory.create(NEW_NAME)
    try:
        write_at(descriptor, pack(checkpoint), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    directory.rename(NEW_NAME, NAME)
    directory.sync()
