"""Compression of batches by Kafka's codecs, and their decompression within bounds."""

from __future__ import annotations

import gzip
import io
import mmap
import struct
from typing import TYPE_CHECKING, Final

from flowstream.errors import MissingExtraError
from flowstream.extras import requires

if TYPE_CHECKING:
    from collections.abc import Iterator

CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Codec bits of a batch's attributes, by Kafka's names."""
COMPRESSION: Final = "zstd"
"""Of recordings and spools: a sixth of the octets for 0.3 us per record to write, and 0.3
to read (``bench publish`` and ``bench spool``)."""
_NAMES: Final = {codec: name for name, codec in CODECS.items() if codec}
# A few thousand octets can unpack to gigabytes; what producers send stays far below this.
MAX_UNPACKED: Final = 256 << 20
# Java's snappy frames blocks: this, two version numbers, then lengths and blocks.
_XERIAL: Final = b"\x82SNAPPY\0"
_XERIAL_BYTES: Final = 16
_BLOCK: Final = struct.Struct(">i")


def load(name: str) -> None:
    """Import the library that batches compressed with ``name`` need."""
    if name not in ("none", "gzip"):
        with requires("kafka", f"compression with {name}"):
            import cramjam  # noqa: F401, PLC0415 - an extra


def unpack(codec: int, packed: bytes) -> bytes:
    """Decompress up to ``MAX_UNPACKED`` octets; ValueError says why that is impossible.

    Raises MissingExtraError without the library.
    """
    name = _NAMES.get(codec)
    if name is None:
        raise ValueError(f"a batch of an unknown compression, {codec}")
    try:
        unpacked = _gunzip(packed) if name == "gzip" else _unpack(name, packed)
    except MissingExtraError:
        raise
    except Exception as err:
        # Every codec has its own errors.
        raise ValueError(
            f"a batch compressed with {name} that cannot be unpacked "
            f"within {MAX_UNPACKED >> 20} MiB: {err}"
        ) from err
    return unpacked


def _gunzip(packed: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        unpacked = file.read(MAX_UNPACKED)
        if file.read(1):
            raise ValueError("it goes on")
    return unpacked


def _unpack(name: str, packed: bytes) -> bytes:
    with requires("kafka", f"a batch compressed with {name}"):
        import cramjam  # noqa: PLC0415 - an extra

    into = {
        "snappy": cramjam.snappy.decompress_raw_into,
        "lz4": cramjam.lz4.decompress_into,
        "zstd": cramjam.zstd.decompress_into,
    }[name]
    size = 0
    # Not filled: only pages that are written to take memory.
    with mmap.mmap(-1, MAX_UNPACKED) as unpacked:
        for block in _blocks(packed) if name == "snappy" else [packed]:
            with memoryview(unpacked) as octets, octets[size:] as rest:
                size += into(block, rest)
        return unpacked[:size]


def _blocks(packed: bytes) -> Iterator[bytes]:
    """Yield the blocks of Java's framing; without it, everything as one block."""
    if not packed.startswith(_XERIAL):
        yield packed
        return
    position = _XERIAL_BYTES
    while position < len(packed):
        (length,) = _BLOCK.unpack_from(packed, position)
        position += _BLOCK.size
        if not 0 < length <= len(packed) - position:
            raise ValueError(f"a block of {length} bytes")
        yield packed[position : position + length]
        position += length
