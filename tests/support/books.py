"""The books of runs, kept in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream import __version__
from flowstream.accounting.books import VERSION, Header

if TYPE_CHECKING:
    from flowstream.accounting.identity import Identity


class Kept(dict[int, bytes]):
    """Entries by number, as in the kernel's map; ``puts`` counts the updates."""

    puts = 0

    def put(self, key: int, octets: bytes) -> None:
        self[key] = octets
        self.puts += 1

    def remove(self, key: int) -> None:
        self.pop(key, None)


def header(identity: Identity, prefix: str = "t") -> Header:
    return Header(
        VERSION,
        __version__,
        identity.agent_epoch,
        identity.host_id,
        identity.host,
        identity.sampler_address,
        prefix,
        "flow",
        "layouts",
        1_024,
    )
