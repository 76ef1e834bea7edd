"""Reads pcap and pcapng files: packets with their times, up to the first damage.

pcap: microseconds, nanoseconds and Kuznetzov's form, either byte order
(draft-ietf-opsawg-pcap). pcapng: several sections and interfaces, any time
resolution (draft-ietf-opsawg-pcapng). Link types: Ethernet; raw IP and Linux
cooked (v1, v2) get an Ethernet header with zero addresses in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.files import shown
from flowstream.pcap import classic
from flowstream.pcap.file import OctetFile
from flowstream.pcap.pcapng import PcapngReader, is_pcapng

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowstream.kernel.packets import Packet
    from flowstream.pcap.file import FileVersion


class CaptureFile(OctetFile):
    """An open capture; ``packets`` may be read once. A context manager."""

    def __init__(
        self, path: Path, expected: FileVersion | None = None, descriptor: int | None = None
    ) -> None:
        super().__init__(path, expected, descriptor)
        self._pcapng: PcapngReader | None = None
        if self.size < classic.FILE_HEADER:
            self.close()
            raise self.damage("is no capture: shorter than a pcap header", 0)

    def packets(self) -> Iterator[Packet]:
        """Packets in the file's order; they own their octets.

        SourceError at the first octet that cannot be read.
        """
        head = self.octets(0)
        if len(head) < classic.FILE_HEADER:
            raise self.cut("in its header", len(head))
        if order := classic.order_of(head):
            return classic.packets(self, head, order)
        if is_pcapng(head):
            self._pcapng = PcapngReader(self)
            return self._pcapng.packets()
        raise self.damage("is no capture: neither pcap nor pcapng", 0)

    def warnings(self) -> list[str]:
        """Return warnings so far, a line each: what the result leaves out."""
        found = self._pcapng.warnings() if self._pcapng else []
        if grown := self.grown():
            found.append(f"grew by {grown:,} octets while it was read; they are not published")
        return [f"{shown(self.path)}: {text}" for text in found]
