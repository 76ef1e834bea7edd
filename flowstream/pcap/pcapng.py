"""The pcapng format (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import math
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.pcap.classic import MAX_LENGTH, MAX_PACKET
from flowstream.pcap.link_types import ETHERNET, SUPPORTED, framer_of
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.kernel.packets import Packet
    from flowstream.pcap.file import OctetFile
    from flowstream.pcap.link_types import Framer

_SECTION: Final = 0x0A0D0D0A
_INTERFACE, _OBSOLETE, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_PACKETS: Final = frozenset((_OBSOLETE, _SIMPLE, _ENHANCED))
# Name resolution, interface statistics, systemd journal, decryption secrets, and the two custom
# blocks, which only readers that know their enterprise number can use.
_WITHOUT_PACKETS: Final = frozenset((4, 5, 9, 10, 0xBAD, 0x40000BAD))
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_MAJOR: Final = 1
_BLOCK: Final = 12
"""Octets of a block without content: type, length, and the length again."""

_OPTION_END: Final = 0
_IF_TSRESOL, _IF_FCSLEN, _IF_TSOFFSET = 9, 13, 14
_PACKET_FLAGS, _DROP_COUNT = 2, 4
_OPTION_SIZES: Final = {_IF_TSRESOL: 1, _IF_FCSLEN: 1, _IF_TSOFFSET: 8}
_FLAGS_FCS_SHIFT, _FLAGS_FCS_MASK = 5, 0xF
_UNKNOWN_DROPS: Final = 0xFFFF

_MAX_TIME_NS: Final = 1 << 63
"""Times of records are below it: in the year 2262."""


def is_pcapng(head: memoryview) -> bool:
    """Say whether a file that begins with ``head`` is one; the number is a palindrome."""
    return bool(struct.unpack_from("<I", head)[0] == _SECTION)


class _Order:
    """Readers of a section's numbers: each takes octets and a position in them."""

    def __init__(self, order: str) -> None:
        def reader(form: str) -> Callable[[memoryview, int], tuple[int, ...]]:
            return struct.Struct(order + form).unpack_from

        self.u16x2, self.u32, self.u32x2 = reader("HH"), reader("I"), reader("II")
        self.u64, self.i64 = reader("Q"), reader("q")
        self.interface, self.enhanced, self.obsolete = reader("HHI"), reader("5I"), reader("HH4I")


_ORDERS: Final = (_Order("<"), _Order(">"))


class _Interface(NamedTuple):
    """An interface of a section; Unix ns are ``ticks * multiplier // divisor + offset_ns``."""

    link_type: int
    framer: Framer | None
    snap_length: int
    """At most so many octets of a packet were captured."""
    multiplier: int
    divisor: int
    offset_ns: int
    fcs: int
    """Octets of the frame check sequence that every packet ends with."""
    described_at: int


class PcapngReader:
    """The packets of a file, of all its sections and interfaces."""

    def __init__(self, file: OctetFile) -> None:
        self._file = file
        self._order = _ORDERS[0]
        self._interfaces: list[_Interface] = []
        self._skipped: Counter[int] = Counter()
        self._dropped = 0

    def warnings(self) -> list[str]:
        """Return warnings about skipped blocks and packets that the capture dropped."""
        found = []
        if self._skipped:
            kinds = ", ".join(f"0x{kind:08x}" for kind in sorted(self._skipped))
            found.append(
                f"skipped {counted(self._skipped.total(), 'block')} of unknown type ({kinds}), "
                "in which packets may be"
            )
        if self._dropped:
            dropped = counted(self._dropped, "packet was", "packets were")
            found.append(f"{dropped} dropped when it was captured")
        return found

    def packets(self) -> Iterator[Packet]:
        """Yield packets in the file's order, up to a SourceError."""
        for kind, at, block in self._blocks():
            if kind in _PACKETS:
                yield self._packet(kind, at, block)
            elif kind == _SECTION:
                self._begin_section(at, block)
            elif kind == _INTERFACE:
                self._interfaces.append(self._interface(at, block))
            elif kind not in _WITHOUT_PACKETS:
                self._skipped[kind] += 1

    def _blocks(self) -> Iterator[tuple[int, int, memoryview]]:
        """Yield type, octet of the file and all octets of each block."""
        file, size = self._file, self._file.size
        # ``data`` has the file's octets from ``start`` on; the next block is at ``data[at]``.
        data, start, at, end = memoryview(b""), 0, 0, 0
        while True:
            if end - at < _BLOCK:
                start, at = start + at, 0
                if start >= size:
                    break
                data = file.octets(start)
                end = len(data)
                if end < _BLOCK:
                    raise file.cut("in the header of a block", start)
            kind, total = self._order.u32x2(data, at)
            if kind == _SECTION:
                self._order = self._order_of(data, at, start)
                kind, total = self._order.u32x2(data, at)
            if total < _BLOCK or total % 4 or total > MAX_PACKET:
                raise file.damage(f"says that a block has {total} octets", start + at + 4)
            if end - at < total:
                start, at = start + at, 0
                data = file.octets(start, total)
                end = len(data)
                if end < total:
                    raise file.cut("in a block", start)
            if self._order.u32(data, at + total - 4)[0] != total:
                raise file.damage("has a block whose two lengths differ", start + at)
            yield kind, start + at, data[at : at + total]
            at += total
        file.position = size

    def _order_of(self, data: memoryview, at: int, start: int) -> _Order:
        """Return the byte order of the section that begins at ``at``."""
        for order in _ORDERS:
            if order.u32(data, at + 8)[0] == _BYTE_ORDER_MAGIC:
                return order
        raise self._file.damage("has a section without byte order", start + at + 8)

    def _begin_section(self, at: int, block: memoryview) -> None:
        if len(block) < _BLOCK + 16:
            raise self._file.damage("has a section block that is too short", at)
        major, minor = self._order.u16x2(block, 12)
        if major != _MAJOR:
            raise self._file.damage(
                f"has version {major}.{minor} of pcapng; supported is 1", at + 12
            )
        self._interfaces = []

    def _interface(self, at: int, block: memoryview) -> _Interface:
        if len(block) < _BLOCK + 8:
            raise self._file.damage("has an interface block that is too short", at)
        link_type, _, snap_length = self._order.interface(block, 8)
        per_second, offset_ns, fcs = 1_000_000, 0, 0
        for code, place, value in self._options(at, block, 16):
            if len(value) != _OPTION_SIZES.get(code, len(value)):
                raise self._file.damage(
                    f"has an option {code} of {len(value)} octets instead of "
                    f"{_OPTION_SIZES[code]}",
                    place,
                )
            if code == _IF_TSRESOL:
                per_second = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
            elif code == _IF_TSOFFSET:
                offset_ns = self._order.i64(value, 0)[0] * 1_000_000_000
            elif code == _IF_FCSLEN:
                # The draft says bits and gives 4 as its example; writers and Wireshark mean
                # octets: https://github.com/IETF-OPSAWG-WG/draft-ietf-opsawg-pcap/issues/60
                fcs = value[0] if value[0] < 8 else value[0] // 8
        common = math.gcd(1_000_000_000, per_second)
        return _Interface(
            link_type,
            framer_of(link_type),
            snap_length or MAX_PACKET,
            1_000_000_000 // common,
            per_second // common,
            offset_ns,
            fcs,
            at + 8,
        )

    def _options(
        self, at: int, block: memoryview, option: int
    ) -> Iterator[tuple[int, int, memoryview]]:
        """Yield code, place in the file and value of each option; the first is at ``option``."""
        end = len(block) - 4
        while option + 4 <= end:
            code, length = self._order.u16x2(block, option)
            if code == _OPTION_END:
                return
            value = option + 4
            if value + length > end:
                raise self._file.damage(
                    f"has an option of {length} octets, longer than its block", at + option
                )
            yield code, at + option, block[value : value + length]
            option = value + _padded(length)

    def _packet(self, kind: int, at: int, block: memoryview) -> Packet:
        file, size = self._file, len(block)
        if size < (_BLOCK + 4 if kind == _SIMPLE else _BLOCK + 20):
            raise file.damage("has a packet block that is too short", at)
        start, high, low = 28, 0, 0
        if kind == _ENHANCED:
            number, high, low, captured, length = self._order.enhanced(block, 8)
        elif kind == _OBSOLETE:
            number, drops, high, low, captured, length = self._order.obsolete(block, 8)
            self._dropped += drops if drops != _UNKNOWN_DROPS else 0
        else:
            number, start = 0, 12
            captured = length = self._order.u32(block, 8)[0]
        if number >= len(self._interfaces):
            raise file.damage(
                f"has a packet of interface {number}, which is not described", at + 8
            )
        interface = self._interfaces[number]
        if kind == _SIMPLE:
            captured = min(captured, interface.snap_length)
        end = start + captured
        if end > size - 4:
            raise file.damage(f"says that a packet has {captured} octets", at + start - 8)
        fcs = interface.fcs
        if kind != _SIMPLE and end + 8 <= size:
            fcs = self._note_options(at, block, _padded(end), fcs)
        if fcs:
            length = max(length - fcs, 0)
        # Octets behind the frame do not belong to it.
        octets = block[start : start + min(captured, length)]
        # A simple packet has no time: it gets the beginning of the epoch.
        time_ns = 0 if kind == _SIMPLE else self._time(at, interface, high << 32 | low)
        return self._framed(at, interface, (time_ns, length, octets))

    def _time(self, at: int, interface: _Interface, ticks: int) -> int:
        time_ns = ticks * interface.multiplier // interface.divisor + interface.offset_ns
        if not 0 <= time_ns < _MAX_TIME_NS:
            raise self._file.damage(
                f"has a packet at {time_ns // 10**9} s since 1970; supported are times "
                "from 1970 to 2262",
                at + 12,
            )
        return time_ns

    def _note_options(self, at: int, block: memoryview, option: int, fcs: int) -> int:
        """Count drops named in a packet's options; return the octets of its check sequence."""
        for code, _, value in self._options(at, block, option):
            if code == _PACKET_FLAGS and len(value) == 4:
                own = self._order.u32(value, 0)[0] >> _FLAGS_FCS_SHIFT & _FLAGS_FCS_MASK
                fcs = own or fcs
            elif code == _DROP_COUNT and len(value) == 8:
                self._dropped += self._order.u64(value, 0)[0]
        return fcs

    def _framed(self, at: int, interface: _Interface, packet: Packet) -> Packet:
        time_ns, length, octets = packet
        if interface.framer is None:
            raise self._file.damage(
                f"has link type {interface.link_type}, which is not supported; supported are: "
                f"{SUPPORTED}",
                interface.described_at,
            )
        if interface.link_type == ETHERNET:
            return packet
        framed = interface.framer(time_ns, length, octets)
        if framed[1] > MAX_LENGTH:
            raise self._file.damage(f"says that a packet has {length} octets", at)
        return framed


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4
