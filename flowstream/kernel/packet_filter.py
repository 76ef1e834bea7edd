"""A filter of packets, as the loader of programs gets it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from flowstream.errors import KernelError
from flowstream.kernel import classic_bpf, filter_code
from flowstream.kernel.link import Hook


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
        program = self.raw_ip if raw else self.ethernet
        return _translated(program, tagged=hook is Hook.TC and not raw)

    def encoded(self) -> bytes:
        """Return it as octets for ``decode``."""
        return msgspec.msgpack.encode(self)


# Every attachment has the function of its kind, of which a filter has three.
@lru_cache(maxsize=3)
def _translated(program: bytes, *, tagged: bool) -> bytes:
    return filter_code.translate(classic_bpf.decode(program), tagged=tagged)


decode: Final = msgspec.msgpack.Decoder(PacketFilter).decode
