"""A filter of packets, as the loader of programs gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from flowstream.errors import KernelError
from flowstream.kernel import classic_bpf, filter_code
from flowstream.kernel.link import Hook

if TYPE_CHECKING:
    from flowstream.kernel.target import Target


class PacketFilter(msgspec.Struct, frozen=True):
    """An expression, and its programs of classic BPF as octets, in this host's byte order.

    ``raw_ip`` is for links without a link-layer header; it is b"" for an expression that has
    no meaning there, and ``not_raw_ip`` then says why.
    """

    expression: str
    ethernet: bytes
    raw_ip: bytes = b""
    not_raw_ip: str = ""

    @property
    def instructions(self) -> int:
        """Number of its instructions of classic BPF, for frames."""
        return len(self.ethernet) // classic_bpf.SIZE

    def require_valid(self) -> None:
        """Raise UsageError unless each program can be translated."""
        self.function(Hook.TC, raw=False)
        if self.raw_ip:
            self.function(Hook.TC, raw=True)

    def function(self, hook: Hook, *, raw: bool) -> bytes:
        """Return the eBPF function for programs of a hook; KernelError without a meaning there."""
        if raw and not self.raw_ip:
            raise KernelError(
                f"--filter has no meaning without a link-layer header: {self.not_raw_ip}: "
                "use one of IP alone, or leave the interface out"
            )
        program = classic_bpf.decode(self.raw_ip if raw else self.ethernet)
        return filter_code.translate(program, tagged=hook is Hook.TC and not raw)


class Functions:
    """The functions of a filter, each translated once. None filters nothing."""

    def __init__(self, packet_filter: PacketFilter | None) -> None:
        self._filter = packet_filter
        self._made: dict[tuple[Hook, bool], bytes] = {}

    def of(self, target: Target) -> bytes:
        """Return the function for a target, b"" for none; as ``PacketFilter.function``."""
        if self._filter is None:
            return b""
        kind = (target.mode.hook, target.raw)
        if kind not in self._made:
            self._made[kind] = self._filter.function(kind[0], raw=kind[1])
        return self._made[kind]


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(PacketFilter).decode
