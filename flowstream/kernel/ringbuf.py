"""Reads a BPF ring buffer in place, many records at a time.

The kernel shares the positions of consumer and producer and the data
(kernel/bpf/ringbuf.c). It maps the data twice in a row, so that a record never
wraps. All records of a ring have the same length here: a run of them is one
strided array and leaves the ring with one copy. Only the part that is read is
mapped, and only while it is read: a mapping of the whole ring would add twice
its size to the resident memory of the process.

Each step has a critical section of its own, for CPUs that reorder loads and stores
(arm64): a lock's release and the acquisition after it order what is before them and
what is behind them, in CPython a semaphore's or a mutex's atomic operations. One
section would order nothing within it, and nothing before it with what follows it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from ctypes import c_int, c_long, c_size_t, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from flowstream.errors import KernelError, LayoutError
from flowstream.kernel.map import Map

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from flowstream.kernel.object import MapSpec

HEADER_SIZE = 8  # BPF_RINGBUF_HDR_SZ
BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: reserved, not yet submitted
DISCARD = 1 << 30  # BPF_RINGBUF_DISCARD_BIT


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
_libc.mmap.restype = c_void_p
_libc.munmap.argtypes = [c_void_p, c_size_t]
_MAP_FAILED = c_void_p(-1).value


class _Mapping:
    """Shared memory of a map, for numpy: arrays keep it alive.

    Python's mmap duplicates the descriptor, which fails when none is left.
    """

    def __init__(self, fd: int, offset: int, length: int, access: int) -> None:
        self._length = 0
        address = _libc.mmap(None, length, access, mmap.MAP_SHARED, fd, offset)
        if address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address, self._length = address, length
        read_only = not access & mmap.PROT_WRITE
        # https://numpy.org/doc/stable/reference/arrays.interface.html
        self.__array_interface__ = {
            "version": 3, "typestr": "|u1", "shape": (length,), "data": (address, read_only),
        }  # fmt: skip

    def __del__(self, unmap: Callable[[int, int], int] = _libc.munmap) -> None:
        if self._length:
            unmap(self._address, self._length)


class RingBuffer(Map):
    """A ring buffer of ``size`` octets whose records have ``record_dtype``.

    ``size`` is a power of two and a multiple of the page size. ``fd`` becomes
    readable when records arrive (level-triggered polling works). One thread
    reads at a time; any thread may call ``close``, after which ``read`` returns
    nothing and the positions stay what they were.
    """

    def __init__(
        self, spec: MapSpec, record_dtype: np.dtype[Any], size: int, *, fd: int | None = None
    ) -> None:
        page = mmap.PAGESIZE
        if size < page or size & (size - 1):
            raise KernelError(f"ring {spec.name}: {size} is not a power of two of at least {page}")
        super().__init__(spec, size, fd=fd)
        self.size = size
        self.record_dtype = record_dtype
        self.stride = HEADER_SIZE + (record_dtype.itemsize + 7) // 8 * 8
        self._entry = np.dtype(
            {
                "names": ["length", "record"],
                # numpy copies void items by memcpy, structures field by field.
                "formats": [np.uint32, np.dtype((np.void, record_dtype.itemsize))],
                "offsets": [0, HEADER_SIZE],
                "itemsize": self.stride,
            }
        )
        try:
            consumer = self._map(0, page, mmap.PROT_READ | mmap.PROT_WRITE)
            producer = self._map(page, page)
        except KernelError:
            if fd is None:
                self.close()
            raise
        self._consumed = consumer[:8].view(np.uint64)
        self._produced = producer[:8].view(np.uint64)
        self._lock = threading.Lock()

    @property
    def produced(self) -> int:
        """Octets that the kernel has written since the ring was created."""
        with self._lock:
            return int(self._produced[0])

    @property
    def consumed(self) -> int:
        """Octets that were read since the ring was created."""
        with self._lock:
            return int(self._consumed[0])

    def pending(self) -> int:
        """Octets between the consumer and the producer."""
        return self.produced - self.consumed if self.fd >= 0 else 0

    def read(self, most: int) -> NDArray[Any]:
        """Take up to ``most`` submitted records out of the ring.

        The result has shape (n,) and owns its memory. It ends before a record that
        is reserved but not yet submitted. LayoutError when a record has another length
        than ``record_dtype``.
        """
        with self._lock:
            if self.fd < 0:
                return np.empty(0, self.record_dtype)
            consumed = int(self._consumed[0])
            count = min((int(self._produced[0]) - consumed) // self.stride, most)
            if count <= 0:
                return np.empty(0, self.record_dtype)
            entries = self._map_entries(consumed & (self.size - 1), count)
        with self._lock:
            lengths = entries["length"].copy()
        busy = np.flatnonzero(lengths & BUSY)
        if len(busy):
            lengths = lengths[: busy[0]]
        self._check_lengths(lengths)
        kept = lengths & DISCARD == 0
        records = entries["record"][: len(lengths)]
        with self._lock:
            records = records.copy() if kept.all() else records[kept]
        with self._lock:
            if self.fd >= 0:
                self._consumed[0] = consumed + len(lengths) * self.stride
        return records.view(self.record_dtype)

    def _map_entries(self, start: int, count: int) -> NDArray[np.void]:
        """View ``count`` entries from octet ``start`` of the data; unmapped with the array."""
        page = mmap.PAGESIZE
        skipped = start % page
        # Two pages with the positions precede the data.
        window = self._map(2 * page + start - skipped, skipped + count * self.stride)
        return np.ndarray(count, self._entry, window, skipped)

    def _map(self, offset: int, length: int, access: int = mmap.PROT_READ) -> NDArray[np.uint8]:
        """Map octets of the ring, shape (length,); unmapped with the last array of them."""
        try:
            return np.asarray(_Mapping(self.fd, offset, length, access))
        except OSError as err:
            raise KernelError(f"mapping ring {self.name}: {err.strerror}", err.errno or 0) from err

    def _check_lengths(self, lengths: NDArray[np.uint32]) -> None:
        wrong = np.flatnonzero(lengths & ~np.uint32(DISCARD) != self.record_dtype.itemsize)
        if len(wrong):
            raise LayoutError(
                f"ring {self.name}: a record of {lengths[wrong[0]] & ~np.uint32(DISCARD)} octets, "
                f"its accessor has {self.record_dtype.itemsize}"
            )

    def close(self) -> None:
        """Close the ring; harmless twice and from any thread."""
        lock = getattr(self, "_lock", None)
        if lock is None:  # __init__ failed before the mapping
            super().close()
            return
        with lock:
            super().close()
            # A mapping keeps the kernel's memory of the ring, whoever still refers to this object.
            self._consumed, self._produced = self._consumed.copy(), self._produced.copy()
