"""The map in which a run keeps its books: octets by number, each entry written at once.

An update replaces an entry in one step, also when the process is killed in the middle
of it: a reader gets the former octets or the new ones.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from flowstream.errors import KernelError, LayoutError
from flowstream.kernel import libbpf
from flowstream.kernel.maps import HashMap
from flowstream.kernel.object import MapSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUE_SIZE: Final = 4_032
"""With key and header an entry is an object of 4,096 octets, not 8,192 (kernel/bpf/hashtab.c)."""
LARGEST: Final = VALUE_SIZE - 2
"""Octets that one entry holds: a u16, big-endian, has their number."""
ENTRIES: Final = 16_384
"""Takes 256 KiB while it is empty: entries are allocated when they are written."""

SPEC: Final = MapSpec(
    "books", libbpf.MAP_TYPE_HASH, 8, VALUE_SIZE, ENTRIES, libbpf.BPF_F_NO_PREALLOC
)
_KEY = np.dtype(np.uint64)
_VALUE = np.dtype((np.void, VALUE_SIZE))


class BooksMap(HashMap):
    """Octets, at most ``LARGEST``, by numbers from 0 to 2⁶⁴ - 1.

    A context manager; closing twice is harmless. Any thread may call the methods.
    """

    def __init__(self, *, fd: int | None = None) -> None:
        super().__init__(SPEC, _KEY, _VALUE, fd=fd)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Use the map behind ``fd``; LayoutError when it is another one. Owns ``fd``."""
        return super().from_fd(fd)

    def put(self, key: int, octets: bytes) -> None:
        """Set an entry; MapFullError when there are ``ENTRIES`` others.

        KernelError when the octets are too many, or the kernel has no memory; the entry
        is what it was, then.
        """
        if len(octets) > LARGEST:
            raise KernelError(f"map {self.name}: {len(octets)} octets, more than {LARGEST}")
        # Without arrays: a batch of many interfaces makes hundreds of these calls.
        value = (len(octets).to_bytes(2, "big") + octets).ljust(VALUE_SIZE, b"\0")
        self.update_at(key.to_bytes(8, sys.byteorder), value)

    def octets(self, key: int) -> bytes | None:
        """Octets of an entry, None when there is none."""
        value = self.get(np.array([key], _KEY))
        return None if value is None else self._octets(value.tobytes())

    def remove(self, key: int) -> None:
        """Remove an entry; harmless when there is none."""
        self.delete(np.array([key], _KEY))

    def items(self) -> Iterator[tuple[int, bytes]]:
        """All entries, without order; complete while nothing writes."""
        for keys, values in self.snapshot():
            for key, value in zip(keys.tolist(), values, strict=True):
                yield key, self._octets(value.tobytes())

    def _octets(self, stored: bytes) -> bytes:
        length = int.from_bytes(stored[:2], "big")
        if length > LARGEST:
            raise LayoutError(f"map {self.name}: an entry of {length} octets, more than {LARGEST}")
        return stored[2 : 2 + length]
