"""Sampling rates of attachments, to label what they share: the entries of a flow table."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowstream.accounting.tally import attachment_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.accounting.attachment_key import AttachmentKey


class _Known(NamedTuple):
    codes: NDArray[np.uint64]
    """Codes of attachments in ascending order, shape (n,)."""
    rates: NDArray[np.uint32]


class Rates:
    """One packet in how many is read, by attachment; ``usual`` for those that are not known.

    A flow table has entries from before and after a change of a rate. They keep the former
    rate until the next table is read, all of whose entries are from after it. Any thread
    may use it.
    """

    def __init__(self, usual: int) -> None:
        self._usual = usual
        self._by_key: dict[AttachmentKey, int] = {}
        self._known: _Known | None = None
        self._now_active: dict[AttachmentKey, int] = {}
        self._next_active: dict[AttachmentKey, int] = {}
        self._lock = threading.Lock()

    def set(self, key: AttachmentKey, rate: int) -> None:
        """Label the entries of an attachment with ``rate`` from now on."""
        with self._lock:
            self._by_key[key] = rate
            self._settle()

    def change(self, key: AttachmentKey, rate: int) -> None:
        """Label the entries of an attachment with ``rate`` after the next swap's table."""
        with self._lock:
            self._now_active[key] = rate

    def swapped(self) -> None:
        """Note that another table is active, and that the one before is read from now on."""
        with self._lock:
            due, self._next_active = self._next_active, self._now_active
            self._now_active = {}
            if due:
                self._by_key.update(due)
                self._settle()

    def forget(self, key: AttachmentKey) -> None:
        """Drop an attachment whose entries were read; harmless twice."""
        with self._lock:
            self._now_active.pop(key, None)
            self._next_active.pop(key, None)
            if self._by_key.pop(key, None) is not None:
                self._settle()

    def of(self, keys: NDArray[np.void]) -> int | NDArray[np.uint32]:
        """Rates of entries with these keys (dtype FLOW_KEY, shape (n,)): one for all, or (n,)."""
        known = self._known
        if known is None:
            return self._usual
        codes = attachment_codes(keys["if_index"], keys["flow_direction"])
        places = np.minimum(np.searchsorted(known.codes, codes), len(known.codes) - 1)
        return np.where(known.codes[places] == codes, known.rates[places], self._usual)

    def _settle(self) -> None:
        rates = set(self._by_key.values())
        if len(rates) <= 1:
            # Also for entries that outlive their attachment.
            self._usual, self._known = rates.pop() if rates else self._usual, None
            return
        by_code = sorted((key.code, rate) for key, rate in self._by_key.items())
        self._known = _Known(
            np.array([code for code, _ in by_code], np.uint64),
            np.array([rate for _, rate in by_code], np.uint32),
        )
