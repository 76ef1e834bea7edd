"""BPF maps with typed access: keys and values are numpy arrays of one element.

Every map is a context manager; closing twice is harmless.
"""

from __future__ import annotations

import errno
from ctypes import byref, c_uint32, c_uint64
from typing import TYPE_CHECKING, Any

import numpy as np

from flowstream.errors import LayoutError
from flowstream.kernel import libbpf
from flowstream.kernel.map import Map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowstream.kernel.object import MapSpec

BATCH = 8_192
"""Entries per system call of a batched read: bounds the memory of a drain."""


def _check_size(what: str, dtype: np.dtype[Any], size: int) -> None:
    if dtype.itemsize != size:
        raise LayoutError(
            f"{what}: the object has {size} octets, its accessor {dtype.itemsize}; "
            "rebuild both with make generate"
        )


class ArrayMap(Map):
    """Map of type array; values of ``dtype``."""

    def __init__(self, spec: MapSpec, dtype: np.dtype[Any], *, fd: int | None = None) -> None:
        _check_size(f"value of map {spec.name}", dtype, spec.value_size)
        super().__init__(spec, fd=fd)
        self.dtype = dtype

    def read(self, index: int = 0) -> NDArray[Any]:
        """Value at ``index``, shape (1,)."""
        value = np.zeros(1, self.dtype)
        key = c_uint32(index)
        done = libbpf.library().bpf_map_lookup_elem(self.fd, byref(key), value.ctypes.data)
        libbpf.check(done, f"reading map {self.name}")
        return value

    def write(self, value: NDArray[Any], index: int = 0) -> None:
        """Set the value at ``index``."""
        self.update(np.array([index], np.uint32), value)


class PerCpuArray(Map):
    """Map of type per-CPU array; values of ``dtype``, a multiple of 8 octets."""

    def __init__(self, spec: MapSpec, dtype: np.dtype[Any], *, fd: int | None = None) -> None:
        _check_size(f"value of map {spec.name}", dtype, spec.value_size)
        if dtype.itemsize % 8:
            # The kernel rounds each CPU's value up to 8 octets.
            raise LayoutError(f"value of map {spec.name}: {dtype.itemsize} is not a multiple of 8")
        super().__init__(spec, fd=fd)
        self.dtype = dtype

    def read(self, index: int = 0) -> NDArray[Any]:
        """Value of each *possible* CPU, shape (possible_cpus,)."""
        values = np.zeros(libbpf.possible_cpus(), self.dtype)
        key = c_uint32(index)
        done = libbpf.library().bpf_map_lookup_elem(self.fd, byref(key), values.ctypes.data)
        libbpf.check(done, f"reading map {self.name}")
        return values

    def total(self, index: int = 0) -> dict[str, Any]:
        """Each field summed over all possible CPUs; a plain integer is under ''.

        A field that is an array gives the list of its sums.
        """
        values = self.read(index)
        if self.dtype.names is None:
            return {"": int(values.sum())}
        return {name: values[name].sum(axis=0).tolist() for name in self.dtype.names}


class HashMap(Map):
    """Map of type hash (or LRU hash); keys and values of the given dtypes."""

    def __init__(
        self,
        spec: MapSpec,
        key_dtype: np.dtype[Any],
        value_dtype: np.dtype[Any],
        max_entries: int | None = None,
        *,
        fd: int | None = None,
    ) -> None:
        _check_size(f"key of map {spec.name}", key_dtype, spec.key_size)
        _check_size(f"value of map {spec.name}", value_dtype, spec.value_size)
        super().__init__(spec, max_entries, fd=fd)
        self.key_dtype, self.value_dtype = key_dtype, value_dtype

    def get(self, key: NDArray[Any]) -> NDArray[Any] | None:
        """Value of ``key`` (both of shape (1,)), or None."""
        value = np.zeros(1, self.value_dtype)
        result = libbpf.library().bpf_map_lookup_elem(self.fd, key.ctypes.data, value.ctypes.data)
        if result == -errno.ENOENT:
            return None
        libbpf.check(result, f"reading map {self.name}")
        return value

    def delete(self, key: NDArray[Any]) -> bool:
        """Delete ``key``, shape (1,); return whether it was there."""
        result = libbpf.library().bpf_map_delete_elem(self.fd, key.ctypes.data)
        if result == -errno.ENOENT:
            return False
        libbpf.check(result, f"deleting from map {self.name}")
        return True

    def snapshot(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Batches of keys and values, without order.

        Entries that programs insert or delete meanwhile may or may not be included.
        """
        return self._batches(libbpf.library().bpf_map_lookup_batch)

    def drain(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Like ``snapshot``, but deletes the entries that it returns."""
        return self._batches(libbpf.library().bpf_map_lookup_and_delete_batch)

    def _batches(self, call: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        # The cursor is opaque; for a hash it is the number of a bucket.
        cursor, after, size = c_uint64(0), c_uint64(0), min(BATCH, self.max_entries)
        first = True
        while True:
            keys, values = np.empty(size, self.key_dtype), np.empty(size, self.value_dtype)
            count = c_uint32(size)
            result = call(
                self.fd,
                None if first else byref(cursor),
                byref(after),
                keys.ctypes.data,
                values.ctypes.data,
                byref(count),
                None,
            )
            if result == -errno.ENOSPC:
                # One bucket has more entries than the batch: nothing was returned.
                size *= 2
                continue
            if result != -errno.ENOENT:
                libbpf.check(result, f"reading map {self.name}")
            if count.value:
                yield keys[: count.value], values[: count.value]
            if result == -errno.ENOENT:
                return
            cursor.value, first = after.value, False


class MapOfMaps(Map):
    """Map of type array of maps with one slot."""

    def put(self, inner: Map) -> None:
        """Put ``inner`` into the slot.

        Returns after an RCU grace period (up to about 100 ms): no program still
        uses the previous map (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
        """
        self.update(np.zeros(1, np.uint32), np.array([inner.fd], np.uint32))

    def empty(self) -> None:
        """Take the inner map out of the slot; returns as ``put`` does."""
        done = libbpf.library().bpf_map_delete_elem(self.fd, bytes(4))
        libbpf.check(done, f"emptying map {self.name}")
