"""Real captures: tests/traces/README.md says where they come from."""

from __future__ import annotations

from pathlib import Path

from scapy.utils import RawPcapReader

TRACES = Path(__file__).parent.parent / "traces"
CAPTURES = sorted(TRACES.glob("*.pcap"))


def frames(capture: Path) -> list[bytes]:
    """Return the frames of a capture in order, as far as they were captured."""
    with RawPcapReader(str(capture)) as reader:
        # As libpcap does: some writers keep more than their own header allows.
        limit = getattr(reader, "snaplen", 0) or None
        return [frame[:limit] for frame, _ in reader]
