"""libpcap by ctypes; no other module calls it.

Source: pcap/pcap.h, pcap/bpf.h.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_uint32, c_void_p
from functools import cache
from typing import Any, ClassVar, Final

from flowstream.errors import UsageError
from flowstream.kernel import classic_bpf

SONAME: Final = "libpcap.so.0.8"
ETHERNET: Final = 1
"""DLT_EN10MB."""
RAW_IP: Final = 12
"""DLT_RAW: packets begin with their IP header."""
_SNAPLEN: Final = 262_144
"""Number that a program returns to accept a packet: the octets to keep of it."""
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_: ClassVar[Any] = [("length", c_uint), ("instructions", c_void_p)]


@cache
def library() -> ctypes.CDLL:
    """Return libpcap, loaded on first use; UsageError when the host has none."""
    try:
        lib = ctypes.CDLL(SONAME)
    except OSError as err:
        raise UsageError(f"filter: {SONAME} is missing: install libpcap0.8 ({err})") from err
    lib.pcap_open_dead.argtypes, lib.pcap_open_dead.restype = [c_int, c_int], c_void_p
    lib.pcap_compile.argtypes = [c_void_p, POINTER(_Program), c_char_p, c_int, c_uint32]
    lib.pcap_geterr.argtypes, lib.pcap_geterr.restype = [c_void_p], c_char_p
    lib.pcap_freecode.argtypes = [POINTER(_Program)]
    lib.pcap_close.argtypes = [c_void_p]
    return lib


class NotCompiledError(Exception):
    """libpcap refuses an expression; the text is its own."""


def compiled(expression: str, link_type: int, *, optimize: bool = True) -> bytes:
    """Return an expression's program of classic BPF, as octets of struct bpf_insn.

    Names in it are looked up. NotCompiledError with libpcap's words.
    """
    lib = library()
    handle = lib.pcap_open_dead(link_type, _SNAPLEN)
    if not handle:
        raise MemoryError
    program = _Program()
    try:
        text = expression.encode()
        if lib.pcap_compile(handle, byref(program), text, optimize, _NETMASK_UNKNOWN):
            raise NotCompiledError(lib.pcap_geterr(handle).decode(errors="replace"))
        try:
            return ctypes.string_at(program.instructions, program.length * classic_bpf.SIZE)
        finally:
            lib.pcap_freecode(byref(program))
    finally:
        lib.pcap_close(handle)
