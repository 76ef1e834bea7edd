"""A BPF map of any type. ``maps`` has those whose contents are read here, by numpy."""

from __future__ import annotations

import errno
import os
from ctypes import byref
from typing import TYPE_CHECKING, Any, Self

from flowstream.closing import Closing
from flowstream.errors import KernelError, MapFullError
from flowstream.kernel import libbpf, structures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.kernel.object import MapSpec


class Map(Closing):
    """A map in the kernel, owned by this object.

    ``fd`` is its descriptor. Creating raises KernelError, whose text says whether
    privilege or memory is missing.
    """

    def __init__(
        self,
        spec: MapSpec,
        max_entries: int | None = None,
        inner_fd: int = 0,
        *,
        fd: int | None = None,
    ) -> None:
        self.name = spec.name
        self.key_size = spec.key_size
        self.value_size = spec.value_size
        self.max_entries = max_entries or spec.max_entries
        self.fd: int = self._create(spec, inner_fd) if fd is None else fd
        if fd is not None:
            self._compare(spec)

    @classmethod
    def from_fd(cls, fd: int, *args: Any, **kwargs: Any) -> Self:
        """Use the map behind ``fd``; the other arguments are those of the constructor.

        Raises LayoutError that names the difference when the kernel's map has another
        type, size or capacity. Owns ``fd`` from the call on, also when it raises.
        """
        try:
            return cls(*args, **kwargs, fd=fd)
        except BaseException:
            os.close(fd)
            raise

    def _create(self, spec: MapSpec, inner_fd: int) -> int:
        options = structures.MapCreateOpts(map_flags=spec.flags, inner_map_fd=inner_fd)
        name = spec.name.encode()[:15]
        result = libbpf.library().bpf_map_create(
            spec.type, name, spec.key_size, spec.value_size, self.max_entries, byref(options)
        )
        try:
            return libbpf.check(result, f"creating map {spec.name}")
        except KernelError as err:
            raise KernelError(f"{err}{_REMEDIES.get(err.errno, '')}", err.errno) from err

    def _compare(self, spec: MapSpec) -> None:
        info = libbpf.object_info(structures.MapInfo, self.fd)
        expected = {
            "type": spec.type,
            "key_size": self.key_size,
            "value_size": self.value_size,
            "max_entries": self.max_entries,
        }
        for field, value in expected.items():
            libbpf.compare(f"map {self.name}", field, getattr(info, field), value)

    def close(self) -> None:
        """Close the descriptor; programs that use the map keep it alive."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def update(self, key: NDArray[Any], value: NDArray[Any], flags: int = libbpf.BPF_ANY) -> None:
        """Set ``key`` to ``value``; MapFullError when there is no room (E2BIG)."""
        self.update_at(key.ctypes.data, value.ctypes.data, flags)

    def update_at(self, key: int | bytes, value: int | bytes, flags: int = libbpf.BPF_ANY) -> None:
        """Do the same with octets of the map's sizes, or addresses of such."""
        result = libbpf.library().bpf_map_update_elem(self.fd, key, value, flags)
        if result == -errno.E2BIG:
            raise MapFullError(f"map {self.name} is full ({self.max_entries})", errno.E2BIG)
        libbpf.check(result, f"updating map {self.name}")


_REMEDIES = {
    errno.EPERM: ": needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
    errno.ENOMEM: ": not enough memory: lower --max-flows or raise the memory limit",
    errno.E2BIG: ": too large: lower --max-flows",
}
