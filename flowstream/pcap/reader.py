"""Reads pcap and pcapng files: packets with their times, up to the first damage.

pcap: microseconds and nanoseconds, either byte order (draft-ietf-opsawg-pcap).
pcapng: several sections and interfaces, any time resolution
(draft-ietf-opsawg-pcapng). Link types: Ethernet; raw IP and Linux cooked
(v1, v2) get an Ethernet header with zero addresses in front.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, NamedTuple

from flowstream.closing import Closing
from flowstream.errors import SourceError
from flowstream.layouts.constants import EtherType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowstream.kernel.packets import Packet

_PCAP_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # ns per unit of the fraction
_PCAPNG_MAGIC = 0x0A0D0D0A
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_INTERFACE_BLOCK, _SIMPLE_BLOCK, _ENHANCED_BLOCK = 1, 3, 6
_OPTION_END, _OPTION_TSRESOL, _OPTION_TSOFFSET = 0, 9, 14
_MAX_PACKET = 1 << 26
"""A packet that claims to be longer shows that the file is damaged."""

# https://www.tcpdump.org/linktypes.html
_ETHERNET = 1
_RAW = {12, 14, 101, 228, 229}
_COOKED, _COOKED2 = 113, 276
LINK_TYPES = "Ethernet (1), raw IP (101, 228, 229), Linux cooked (113, 276)"


class Interface(NamedTuple):
    """An interface of a capture; Unix ns are ``ticks * 10**9 / per_second + offset_ns``."""

    link_type: int
    snap_length: int
    """At most so many octets of a packet were captured."""
    per_second: int = 1_000_000
    offset_ns: int = 0


class CaptureFile(Closing):
    """An open capture; ``packets`` may be read once. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                stream.seek(0, 2)
                self.size = stream.tell()
                self._map = (
                    mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) if self.size else b""
                )
        except (OSError, ValueError) as err:
            raise SourceError(f"{path}: cannot be read: {err}") from err
        self._data = memoryview(self._map)
        self.position = 0
        if self.size < 24:
            raise self._damage("is no capture: shorter than a pcap header", 0)

    def parts(self, size: int) -> Iterator[memoryview]:
        """The whole file in parts of ``size`` octets; valid while it is open."""
        return (self._data[at : at + size] for at in range(0, self.size, size))

    def packets(self) -> Iterator[Packet]:
        """Packets in the file's order, valid while it is open.

        SourceError at the first octet that cannot be read.
        """
        for order in "<>":
            (magic,) = struct.unpack_from(order + "I", self._data)
            if magic in _PCAP_MAGIC:
                return self._pcap(order, _PCAP_MAGIC[magic])
        if magic == _PCAPNG_MAGIC:
            return self._pcapng()
        raise self._damage("is no capture: neither pcap nor pcapng", 0)

    def _pcap(self, order: str, fraction_ns: int) -> Iterator[Packet]:
        (link_type,) = struct.unpack_from(order + "I", self._data, 20)
        prefix = self._prefixer(link_type & 0xFFFF, 20)  # the bits above: length of the FCS
        data, size, read = self._data, self.size, struct.Struct(order + "4I").unpack_from
        at = 24
        while at < size:
            self.position = at
            if at + 16 > size:
                raise self._damage("is cut in the header of a packet", at)
            seconds, fraction, captured, length = read(data, at)
            at += 16
            if captured > _MAX_PACKET:
                raise self._damage(f"says that a packet has {captured} octets", at - 8)
            if at + captured > size:
                raise self._damage("is cut in a packet", at)
            octets = data[at : at + captured]
            at += captured
            time_ns = seconds * 1_000_000_000 + fraction * fraction_ns
            yield (time_ns, length, octets) if prefix is None else prefix(time_ns, length, octets)
        self.position = size

    def _pcapng(self) -> Iterator[Packet]:
        data, size, at, order = self._data, self.size, 0, "<"
        interfaces: list[tuple[Interface, _Prefix | None]] = []
        while at < size:
            self.position = at
            if at + 12 > size:
                raise self._damage("is cut in the header of a block", at)
            if struct.unpack_from("<I", data, at)[0] == _PCAPNG_MAGIC:
                order = self._section_order(at)
                interfaces = []
            kind, total = struct.unpack_from(order + "II", data, at)
            if total < 12 or total % 4 or total > _MAX_PACKET:
                raise self._damage(f"says that a block has {total} octets", at + 4)
            if at + total > size:
                raise self._damage("is cut in a block", at)
            if struct.unpack_from(order + "I", data, at + total - 4)[0] != total:
                raise self._damage("has a block whose two lengths differ", at)
            if kind == _INTERFACE_BLOCK:
                interface = self._interface(order, at, total)
                interfaces.append((interface, self._later_prefixer(interface.link_type, at + 8)))
            elif kind in (_ENHANCED_BLOCK, _SIMPLE_BLOCK):
                yield self._packet(order, kind, at, total, interfaces)
            at += total
        self.position = size

    def _section_order(self, at: int) -> str:
        for order in "<>":
            if struct.unpack_from(order + "I", self._data, at + 8)[0] == _BYTE_ORDER_MAGIC:
                return order
        raise self._damage("has a section without byte order", at + 8)

    def _interface(self, order: str, at: int, total: int) -> Interface:
        if total < 20:
            raise self._damage("has an interface block that is too short", at)
        link_type, _, snap_length = struct.unpack_from(order + "HHI", self._data, at + 8)
        per_second, offset_ns = 1_000_000, 0
        option, end = at + 16, at + total - 4
        while option + 4 <= end:
            code, length = struct.unpack_from(order + "HH", self._data, option)
            if code == _OPTION_END or option + 4 + length > end:
                break
            if code == _OPTION_TSRESOL and length == 1:
                resolution = self._data[option + 4]
                per_second = (2 if resolution & 0x80 else 10) ** (resolution & 0x7F)
            elif code == _OPTION_TSOFFSET and length == 8:
                (seconds,) = struct.unpack_from(order + "q", self._data, option + 4)
                offset_ns = seconds * 1_000_000_000
            option += 4 + (length + 3) // 4 * 4
        return Interface(link_type, snap_length or _MAX_PACKET, per_second, offset_ns)

    def _packet(
        self,
        order: str,
        kind: int,
        at: int,
        total: int,
        interfaces: list[tuple[Interface, _Prefix | None]],
    ) -> Packet:
        if kind == _ENHANCED_BLOCK and total >= 32:
            number, high, low, captured, length = struct.unpack_from(
                order + "5I", self._data, at + 8
            )
            start = at + 28
        elif kind == _SIMPLE_BLOCK and total >= 16:
            # It has no time: it gets the beginning of the epoch.
            number, high, low = 0, 0, 0
            (length,) = struct.unpack_from(order + "I", self._data, at + 8)
            start = at + 12
            captured = length  # limited by the interface's snap length, below
        else:
            raise self._damage("has a packet block that is too short", at)
        if number >= len(interfaces):
            raise self._damage(
                f"has a packet of interface {number}, which is not described", at + 8
            )
        interface, prefix = interfaces[number]
        if kind == _SIMPLE_BLOCK:
            captured = min(captured, interface.snap_length)
        if start + captured > at + total - 4:
            raise self._damage(f"says that a packet has {captured} octets", start - 8)
        ticks = high << 32 | low
        time_ns = ticks * 1_000_000_000 // interface.per_second + interface.offset_ns
        octets = self._data[start : start + captured]
        time_ns = max(time_ns, 0)
        return (time_ns, length, octets) if prefix is None else prefix(time_ns, length, octets)

    def _later_prefixer(self, link_type: int, at: int) -> _Prefix | None:
        """Like ``_prefixer``, but an unknown link type is an error only once a packet has it."""
        try:
            return self._prefixer(link_type, at)
        except SourceError as unread:
            damage = unread

        def refuse(_time_ns: int, _length: int, _octets: memoryview) -> Packet:
            raise damage

        return refuse

    def _prefixer(self, link_type: int, at: int) -> _Prefix | None:
        """Return the function that puts an Ethernet header before a packet; None for Ethernet."""
        if link_type == _ETHERNET:
            return None
        if link_type in _RAW:
            return _from_raw
        if link_type == _COOKED:
            return _from_cooked(14, 16)
        if link_type == _COOKED2:
            return _from_cooked(0, 20)
        raise self._damage(
            f"has link type {link_type}, which is not supported; supported are: {LINK_TYPES}", at
        )

    def _damage(self, what: str, at: int) -> SourceError:
        return SourceError(f"{self.path}: octet {at}: {what}")

    def close(self) -> None:
        """Release the file; packets that were handed out keep it mapped."""
        self._data = memoryview(b"")


if TYPE_CHECKING:
    _Prefix = Callable[[int, int, memoryview], Packet]

_NO_ADDRESSES = bytes(12)
_BY_VERSION = {4: EtherType.IPV4.to_bytes(2), 6: EtherType.IPV6.to_bytes(2)}


def _from_raw(time_ns: int, length: int, packet: memoryview) -> Packet:
    # With any other version the packet counts as non-IP.
    etype = _BY_VERSION.get(packet[0] >> 4 if packet else 0, b"\0\0")
    return time_ns, length + 14, memoryview(_NO_ADDRESSES + etype + packet)


def _from_cooked(protocol_at: int, header: int) -> _Prefix:
    def prefix(time_ns: int, length: int, packet: memoryview) -> Packet:
        etype = bytes(packet[protocol_at : protocol_at + 2])
        octets = _NO_ADDRESSES + etype + packet[header:]
        return time_ns, max(length - header, 0) + 14, memoryview(octets)

    return prefix
