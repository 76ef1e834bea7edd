"""From an expression to a filter that kernel programs call."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from flowstream.errors import FilterError, FlowstreamError, UsageError
from flowstream.filtering import libpcap
from flowstream.filtering.libpcap import NotCompiledError
from flowstream.filtering.place import pointed
from flowstream.host import unprivileged
from flowstream.kernel import classic_bpf
from flowstream.kernel.packet_filter import PacketFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.host.privileges import User
    from flowstream.kernel.classic_bpf import Instruction

COMPILE_TIMEOUT_S: Final = 120.0
"""libpcap's optimizer takes 34 s for 500 ports, and names are looked up."""
_KERNEL_FACTS: Final = 0xFFFFF000
"""From this offset on, a filter of a socket reads what the kernel knows of a packet.

SKF_AD_OFF in linux/filter.h.
"""


def compile_filter(expression: str, user: User) -> PacketFilter:
    """Compile an expression in a process that has become ``user``, which looks up names in it.

    Raises FilterError with libpcap's words and the place in the expression, UsageError for
    what the kernel cannot do, FlowstreamError when libpcap ends the process.
    """
    libpcap.library()
    work = functools.partial(compile_here, expression)
    try:
        made = unprivileged.call(user, work, PacketFilter, COMPILE_TIMEOUT_S)
    except TimeoutError:
        raise UsageError(
            f"filter: it was not compiled within {COMPILE_TIMEOUT_S:.0f} s; shorten it, and "
            "replace names by addresses"
        ) from None
    except UsageError:
        raise
    except FlowstreamError as err:
        raise FlowstreamError(
            f"filter: {err}: libpcap may have crashed; simplify the expression, or install "
            "another version of libpcap0.8"
        ) from err
    made.require_valid()
    return made


def compile_here(expression: str) -> PacketFilter:
    """Compile an expression in this process; as ``compile_filter``."""
    try:
        ethernet = libpcap.compiled(expression, libpcap.ETHERNET)
    except NotCompiledError as err:
        raise FilterError(f"filter: {pointed(expression, str(err))}") from err
    _require_packets_alone(classic_bpf.decode(ethernet))
    try:
        return PacketFilter(expression, ethernet, libpcap.compiled(expression, libpcap.RAW_IP))
    except NotCompiledError as err:
        return PacketFilter(expression, ethernet, not_raw_ip=str(err))


def _require_packets_alone(program: Sequence[Instruction]) -> None:
    """UsageError when a program reads something other than the packet, or what it has not set."""
    for each in program:
        is_load = (each.kind, each.mode) == (classic_bpf.LD, classic_bpf.ABS)
        if is_load and each.k >= _KERNEL_FACTS:
            raise UsageError(
                "filter: inbound, outbound and ifindex are not in the packet; use --direction "
                "and --interface"
            )
    if classic_bpf.reads_unset_memory(program):
        raise UsageError(
            "filter: what is behind geneve is read inside Geneve, of other packets at an "
            "undefined place; put what is about them before geneve"
        )
