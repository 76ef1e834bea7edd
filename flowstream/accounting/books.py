"""The books of a run as its successor finds them: entries by number, MessagePack. Pure.

A run that ends with its programs attached, or is killed, leaves its books in a map of the
kernel. ``HEADER`` and ``SEQS`` are the numbers of two entries, the others are the codes of
the attachments. Every entry is replaced whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from flowstream.accounting import terms

# msgspec reads the annotations at run time.
from flowstream.accounting.account import Account  # noqa: TC001
from flowstream.accounting.amounts import Count, KernelCounts  # noqa: TC001
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.streams import PREFIX, Stream
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION: Final = 1
HEADER: Final = 2**64 - 1
SEQS: Final = 2**64 - 2
_CODES: Final = 2**33
"""Codes of attachments are below it."""
_COUNTED: Final = {terms.OVERFLOW_LOST, terms.ANNOUNCEMENT_LOST}
"""Causes of loss that the program counts."""

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
AttachMode = Literal["native", "generic", "offload", "tcx", "clsact"]


class Header(msgspec.Struct, array_like=True, frozen=True):
    """The run, and what its maps are; ``layouts`` names the layouts of their entries.

    ``closed``: its final counters are published.
    """

    version: int
    agent_version: str
    agent_epoch: U63
    host_id: bytes
    host: str
    sampler_address: bytes
    topic_prefix: Annotated[str, msgspec.Meta(pattern=PREFIX)]
    program: str
    layouts: str
    max_flows: U32
    closed: bool = False

    def as_closed(self) -> Header:
        """Return the header of the same run, closed."""
        return msgspec.structs.replace(self, closed=True)


class Seqs(msgspec.Struct, array_like=True, frozen=True):
    """The numbers that the next records of each stream get."""

    flows: Count = 0
    new_flows: Count = 0
    counters: Count = 0


class Facts(msgspec.Struct, array_like=True, frozen=True):
    """What an attachment is; ``interface`` is a name in the network namespace ``netns``.

    ``netns`` is as given to --netns, empty for the agent's own. ``mode`` is the attach mode
    in force. ``previous_epoch`` is the ``agent_epoch`` of the run whose link it took over, 0
    without one.
    """

    interface: str
    netns: str = ""
    mode: AttachMode = "generic"
    program_id: U32 = 0
    program_name: str = ""
    sampling: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)] = 1
    previous_epoch: U63 = 0


class Entry(msgspec.Struct, array_like=True):
    """The books of one attachment.

    ``kernel`` are the counts of those before it that had its key, and its own unless it is
    ``attached``.
    """

    facts: Facts
    attached: bool
    kernel: KernelCounts | None
    account: Account


class Decoded(msgspec.Struct, frozen=True):
    """All books of a run, entries by code, as the schema allows them; see ``checked``."""

    header: Header
    seqs: Seqs
    entries: dict[int, Entry]


class Ended(msgspec.Struct, frozen=True):
    """All books of a run that is no longer there."""

    header: Header
    seqs: Seqs
    entries: dict[AttachmentKey, Entry]

    def seq(self, stream: Stream) -> int:
        """Return the next number of a stream.

        An account says that its records got a seq before the next number is written.
        """
        if stream is Stream.COUNTERS:
            return self.seqs.counters
        saved = self.seqs.flows if stream is Stream.FLOWS else self.seqs.new_flows
        accounts = (entry.account for entry in self.entries.values())
        return max(saved, sum(account.stage(stream).encoded for account in accounts))


encode = msgspec.msgpack.Encoder().encode
_HEADER: Final = msgspec.msgpack.Decoder(Header).decode
_SEQS: Final = msgspec.msgpack.Decoder(Seqs).decode
_ENTRY: Final = msgspec.msgpack.Decoder(Entry).decode


def version_of(header: bytes) -> int:
    """Return the version of the format of a header, of any version; ValueError without one."""
    try:
        found = msgspec.msgpack.decode(header)
    except UNDECODABLE as err:
        raise ValueError(str(err)) from err
    if isinstance(found, list) and found and isinstance(found[0], int):
        return found[0]
    raise ValueError("no version")


def read_header(octets: bytes) -> Header:
    """Read a header of this version; ValueError for another one, and for damage."""
    if (version := version_of(octets)) != VERSION:
        raise ValueError(f"version {version} of the format")
    try:
        return _HEADER(octets)
    except UNDECODABLE as err:
        raise ValueError(str(err)) from err


def decode(items: Iterable[tuple[int, bytes]]) -> Decoded:
    """Decode all entries; ValueError for damage and for another version."""
    found = dict(items)
    if HEADER not in found:
        raise ValueError("no header")
    header = read_header(found.pop(HEADER))
    try:
        seqs = _SEQS(found.pop(SEQS)) if SEQS in found else Seqs()
        return Decoded(header, seqs, {code: _ENTRY(octets) for code, octets in found.items()})
    except UNDECODABLE as err:
        raise ValueError(str(err)) from err


def checked(decoded: Decoded) -> Ended:
    """Return what was decoded, perhaps elsewhere; ValueError for what no run notes.

    Whether the accounts agree with each other is not checked: they are counted as they are.
    """
    header = decoded.header
    if header.version != VERSION:
        raise ValueError(f"version {header.version} of the format")
    entries = dict(_checked(*each) for each in decoded.entries.items())
    return Ended(header, decoded.seqs, entries)


def read(items: Iterable[tuple[int, bytes]]) -> Ended:
    """Read all entries; raises as ``decode`` and ``checked`` do."""
    return checked(decode(items))


def _checked(code: int, entry: Entry) -> tuple[AttachmentKey, Entry]:
    if not 0 <= code < _CODES:
        raise ValueError(f"{code} is not the code of an attachment")
    found = entry.kernel
    if found and (set(found.no_flow), set(found.losses)) != (set(terms.NO_FLOW), _COUNTED):
        raise ValueError("other terms than the program counts")
    return AttachmentKey.of_code(code), entry
