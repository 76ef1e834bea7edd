"""The pcap format (draft-ietf-opsawg-pcap), including the forms of older writers."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.pcap.link_types import ETHERNET, ETHERNET_HEADER, SUPPORTED, framer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.kernel.packets import Packet
    from flowstream.pcap.file import OctetFile

FILE_HEADER: Final = 24
MAX_PACKET: Final = 1 << 26
"""A packet that claims to be longer shows that the file is damaged."""
MAX_LENGTH: Final = (1 << 32) - 1
"""Largest length on the wire, which the kernel program takes as 32 bits."""


class _Form(NamedTuple):
    """Meaning of a magic number: ns per unit of the fraction, octets of a packet's header."""

    fraction_ns: int
    header: int


_FORMS: Final = {
    0xA1B2C3D4: _Form(1000, 16),
    0xA1B23C4D: _Form(1, 16),
    # Kuznetzov's libpcap: interface, protocol and packet type follow the lengths.
    0xA1B2CD34: _Form(1000, 24),
}
_DG_UX: Final = (543, 0)
# Earlier versions have the two lengths in the other order, as do some writers of 2.3.
_LENGTHS_IN_ORDER: Final = (2, 4)

_FCS_PRESENT: Final = 1 << 26
_FCS_SHIFT: Final = 28


def order_of(head: memoryview) -> str | None:
    """Return the byte order of a file that begins with ``head``; None when it is no pcap file."""
    return next((o for o in "<>" if struct.unpack_from(o + "I", head)[0] in _FORMS), None)


def packets(file: OctetFile, head: memoryview, order: str) -> Iterator[Packet]:
    """Return the packets of a file that begins with ``head``, up to a SourceError.

    Times fit: 32 bits of seconds and a fraction of 32 bits stay below 2^63 ns.
    """
    magic, major, minor = struct.unpack_from(order + "IHH", head)
    version = (major, minor)
    if version != _DG_UX and not (2, 0) <= version <= _LENGTHS_IN_ORDER:
        raise file.damage(f"has version {major}.{minor} of pcap; supported are 2.0 to 2.4", 4)
    (link,) = struct.unpack_from(order + "I", head, 20)
    # draft-ietf-opsawg-pcap, section 4: in units of 2 octets.
    fcs = 2 * (link >> _FCS_SHIFT) if link & _FCS_PRESENT else 0
    link &= 0xFFFF
    framer = framer_of(link)
    if framer is None:
        raise file.damage(
            f"has link type {link}, which is not supported; supported are: {SUPPORTED}", 20
        )
    reading = _Reading(
        form=_FORMS[magic],
        swapped=version != _LENGTHS_IN_ORDER,
        fcs=fcs,
        longest=MAX_LENGTH if link == ETHERNET else MAX_LENGTH - ETHERNET_HEADER,
    )
    found = _packets(file, order, reading)
    return found if link == ETHERNET else itertools.starmap(framer, found)


class _Reading(NamedTuple):
    """How to read the packets of a file, whose lengths on the wire are ``longest`` at most."""

    form: _Form
    swapped: bool
    fcs: int
    longest: int


def _packets(file: OctetFile, order: str, reading: _Reading) -> Iterator[Packet]:
    read, size = struct.Struct(order + "4I").unpack_from, file.size
    (fraction_ns, header), swapped, fcs, longest = reading
    # ``data`` has the file's octets from ``start`` on; the next packet is at ``data[at]``.
    data, start, at, end = memoryview(b""), FILE_HEADER, 0, 0
    while True:
        if end - at < header:
            start, at = start + at, 0
            if start >= size:
                break
            data = file.octets(start)
            end = len(data)
            if end < header:
                raise file.cut("in the header of a packet", start)
        seconds, fraction, captured, length = read(data, at)
        if swapped and captured > length:
            captured, length = length, captured
        if captured > MAX_PACKET or length > longest:
            wrong = captured if captured > MAX_PACKET else length
            raise file.damage(f"says that a packet has {wrong} octets", start + at + 8)
        at += header
        if end - at < captured:
            start, at = start + at, 0
            data = file.octets(start, captured)
            end = len(data)
            if end < captured:
                raise file.cut("in a packet", start)
        if fcs:
            length = max(length - fcs, 0)
        # Octets behind the frame do not belong to it.
        kept = at + captured if captured < length else at + length
        yield seconds * 1_000_000_000 + fraction * fraction_ns, length, data[at:kept]
        at += captured
    file.position = size
