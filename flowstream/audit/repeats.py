"""Records that repeat a ``seq``: a duplicate has the contents of the first.

The digest tells accidents and careless forgeries apart; whoever chooses contents to
collide is not found (``flowstream.encode.hashes``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Repeats:
    """Sequence numbers that occurred again, with the digest of one of their records.

    When a number occurs again, the first record with it has gone by. So the
    messages are read a second time, and only if there are repeats: every record with
    such a number must then have that digest. Memory is 16 octets per repeat.
    """

    __slots__ = ("_conflicting", "_digests", "_seqs", "_settled")

    def __init__(self) -> None:
        self._seqs: list[NDArray[np.uint64]] = []
        self._digests: list[NDArray[np.uint64]] = []
        self._settled = True
        self._conflicting = np.zeros(0, np.bool_)

    def __bool__(self) -> bool:
        return bool(self._seqs)

    @property
    def conflicts(self) -> int:
        """Numbers of which ``compare`` found records with other contents."""
        return int(np.count_nonzero(self._conflicting))

    def note(self, seqs: NDArray[np.uint64], contents: NDArray[np.uint64]) -> None:
        """Note repeats and the digests of their records; both have shape (n,)."""
        if len(seqs):
            self._seqs.append(seqs)
            self._digests.append(contents)
            self._settled = False

    def compare(self, seqs: NDArray[np.uint64], contents: NDArray[np.uint64]) -> None:
        """Compare records of the second reading with those noted in the first."""
        if not self:
            return
        self._settle()
        known = self._seqs[0]
        at = np.minimum(np.searchsorted(known, seqs), len(known) - 1)
        differs = (known[at] == seqs) & (self._digests[0][at] != contents)
        self._conflicting[at[differs]] = True

    def _settle(self) -> None:
        """Make one sorted array of the numbers; one digest of each is enough."""
        if self._settled:
            return
        seqs, first = np.unique(np.concatenate(self._seqs), return_index=True)
        self._seqs, self._digests = [seqs], [np.concatenate(self._digests)[first]]
        self._conflicting = np.zeros(len(seqs), np.bool_)
        self._settled = True
