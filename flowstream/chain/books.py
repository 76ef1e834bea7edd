"""Keeps the books of a run in a map of the kernel, where the next run finds them.

Accounts that changed are written before records that got a seq are sent, and once per
round of the event loop; numbers of records after the accounts that count them. So
whenever the agent is killed, no seq is used twice, and every outcome that is missing in
the books is that of a record of the last round.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from flowstream.accounting import books
from flowstream.accounting.account import Account
from flowstream.accounting.books import Entry, Facts, Seqs
from flowstream.accounting.run import Known
from flowstream.errors import FlowstreamError
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.books import Header
    from flowstream.accounting.run import Run

_UNKNOWN = Known(Facts(""), attached=False, kernel=None)


class Store(Protocol):
    """Octets by number, each entry replaced in one step; see ``kernel.books_map``."""

    def put(self, key: int, octets: bytes) -> None:
        """Set an entry."""

    def remove(self, key: int) -> None:
        """Remove an entry; harmless when there is none."""


class Books:
    """The books of ``run`` in ``store``, which has the header from the start.

    ``on_fault``, which may be set later, gets a fault of the store.
    """

    def __init__(self, store: Store, header: Header, run: Run) -> None:
        self._store, self._header, self._run = store, header, run
        self._seqs = Seqs()
        self._changed: set[AttachmentKey] = set()
        self._closed: list[AttachmentKey] = []
        self._scheduled = False
        self.on_fault: Callable[[Exception], object] | None = None
        store.put(books.HEADER, books.encode(header))
        run.ledger.changed = self.change
        run.books = self

    def change(self, key: AttachmentKey) -> None:
        """Write the entry of an attachment by the end of this round of the event loop."""
        self._changed.add(key)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.write)

    def note(self, key: AttachmentKey) -> None:
        """Write the entry of an attachment at once."""
        self._changed.add(key)
        self.write()

    def write(self) -> None:
        """Write what has changed; what the map did not take is tried again the next time.

        Raises KernelError only without ``on_fault``.
        """
        try:
            self._write()
        except FlowstreamError as fault:
            if self.on_fault is None:
                raise
            self.on_fault(fault)

    def _write(self) -> None:
        self._scheduled = False
        while self._changed:
            key = self._changed.pop()
            try:
                self._store.put(key.code, self._entry(key))
            except FlowstreamError:
                self._changed.add(key)
                raise
        seqs = Seqs(*(self._run.next_seq(stream) for stream in Stream))
        if seqs != self._seqs:
            self._store.put(books.SEQS, books.encode(seqs))
            self._seqs = seqs
        if self._closed and self._run.ledger.counters_settled:
            self._remove_closed()

    def _entry(self, key: AttachmentKey) -> bytes:
        facts, attached, kernel = self._run.known.get(key, _UNKNOWN)
        return books.encode(Entry(facts, attached, kernel, self._run.ledger.account(key)))

    def close(self, key: AttachmentKey) -> None:
        """Note that an attachment went, and that its final counters are on their way.

        Its entry stays until they are published: it is the last of it.
        """
        self.write()
        self._closed.append(key)

    def _remove_closed(self) -> None:
        """Remove entries whose final counters have an outcome."""
        closed, self._closed = self._closed, []
        for key in closed:
            if key not in self._run.known:
                self._store.remove(key.code)

    def expect(self, key: AttachmentKey, facts: Facts) -> None:
        """Note an attachment that is being made: its program may run when this returns.

        Its counts go on where those of an earlier one ended. From any thread.
        """
        run = self._run
        known, past = run.known.get(key), run.past.get(key)
        account = run.ledger.accounts().get(key) or (past.account if past else Account())
        kernel = known.kernel if known else past.kernel if past else None
        run.known[key] = Known(facts, attached=True, kernel=kernel)
        self._store.put(key.code, books.encode(Entry(facts, True, kernel, account)))

    def dismiss(self, key: AttachmentKey, before: Known | None) -> None:
        """Note that an expected attachment was not made; ``before``: what was known of it."""
        if before is not None:
            self._run.known[key] = before
            self._store.put(key.code, self._entry(key))
            return
        del self._run.known[key]
        if key not in self._closed:
            self._store.remove(key.code)

    def end(self) -> None:
        """Note that the final counters of the whole run are published."""
        self._store.put(books.HEADER, books.encode(self._header.as_closed()))
