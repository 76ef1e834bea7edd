"""State of a whole run: identity, sequence numbers, attachments and ledger."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from flowstream.accounting.account import Account
from flowstream.accounting.identity import Identity
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.past import Counts, Past, outcomes
from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.accounting.amounts import KernelCounts
    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.books import Ended, Facts


class Writer(Protocol):
    """Where the state is kept for a next run; see ``chain.books``."""

    def note(self, key: AttachmentKey) -> None:
        """Write what is known of an attachment now."""

    def close(self, key: AttachmentKey) -> None:
        """Note that an attachment went, and that its final counters are on their way."""

    def write(self) -> None:
        """Write what has changed."""


class Known(NamedTuple):
    """What a run knows of an attachment, apart from its account.

    ``kernel`` are the counts of those before it that had its key, and its own unless it is
    ``attached``.
    """

    facts: Facts
    attached: bool
    kernel: KernelCounts | None


class Run:
    """One run, perhaps ended by another process than began it.

    ``identity`` refers to ``names``, the names of the interfaces by index, which
    change with the attachments, which ``changes`` counts. ``known`` has those that are
    there and those whose records have no outcome so far, ``past`` the counts of others
    that went. ``books`` is None unless they are kept.
    """

    def __init__(self, identity: Identity, ledger: Ledger | None = None) -> None:
        self.names = dict(identity.interfaces)
        self.identity = dataclasses.replace(identity, interfaces=self.names)
        self.ledger = ledger or Ledger()
        self.known: dict[AttachmentKey, Known] = {}
        self.past = Past()
        self.previous: dict[AttachmentKey, int] = {}
        """Epochs of the runs whose links were taken over."""
        self.books: Writer | None = None
        self.changes = Counter(attached=0, detached=0, failed_attaches=0)
        self._next_seq = dict.fromkeys(Stream, 0)

    def count_failed_attach(self) -> None:
        """Count an interface that could not be attached to."""
        self.changes["failed_attaches"] += 1

    def next_seq(self, stream: Stream) -> int:
        """Return the number that the next record of a stream gets."""
        return self._next_seq[stream]

    def take_seq(self, stream: Stream, count: int) -> int:
        """Use up ``count`` numbers of a stream; return the first."""
        first = self._next_seq[stream]
        self._next_seq[stream] = first + count
        return first

    def sums(self) -> dict[str, int]:
        """Changes of attachments, and outcomes of the records of all of them, so far."""
        sums = outcomes(Account())
        for each in (self.past.sums, *map(outcomes, self.ledger.accounts().values())):
            sums.update(each)
        return {**self.changes, **sums}

    def rename(self, if_index: int, name: str) -> None:
        """Name an interface from now on."""
        self.names[if_index] = name
        for key, known in [*self.known.items()]:
            if key.if_index == if_index:
                facts = msgspec.structs.replace(known.facts, interface=name)
                self.know(key, known._replace(facts=facts))

    def know(self, key: AttachmentKey, known: Known) -> None:
        """Note what an attachment is, and what has changed of it."""
        self.known[key] = known
        if self.books is not None:
            self.books.note(key)

    def close_account(self, key: AttachmentKey, kernel: KernelCounts) -> None:
        """Move an attachment that went to the past; all of its records have an outcome."""
        if self.books is not None:
            self.books.close(key)
        if key in self.known and not self.known[key].attached:
            # Else it is back already.
            del self.known[key]
        self.past.keep(key, Counts(self.ledger.close(key), kernel))

    def reopen_account(self, key: AttachmentKey) -> KernelCounts | None:
        """Go on with the account of an attachment that is back; return the kernel's counts."""
        if (counts := self.past.take(key)) is None:
            return None
        self.ledger.reopen(key, counts.account)
        return counts.kernel

    def write_books(self) -> None:
        """Write the books, if they are kept: before any record is sent that got a seq."""
        if self.books is not None:
            self.books.write()

    @classmethod
    def restore(cls, ended: Ended) -> Run:
        """Return a run that continues where its books end."""
        header, entries = ended.header, ended.entries
        run = cls(
            Identity(
                header.agent_epoch,
                header.host_id,
                header.host,
                header.sampler_address,
                {key.if_index: entry.facts.interface for key, entry in entries.items()},
            ),
            Ledger({key: entry.account for key, entry in entries.items()}),
        )
        run.known = {
            key: Known(entry.facts, entry.attached, entry.kernel) for key, entry in entries.items()
        }
        run._next_seq = {stream: ended.seq(stream) for stream in Stream}
        return run
