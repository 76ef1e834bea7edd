"""Exact sums by key in bounded memory: what exceeds it waits in a temporary file."""

from __future__ import annotations

import secrets
import tempfile
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from flowstream.closing import Closing
from flowstream.encode.hashes import hashes_of
from flowstream.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROWS: Final = 1 << 17
"""Rows that wait to be merged, and distinct keys from which on all are written to the file."""
PARTS: Final = 256
"""Parts of the file; each is read as a whole, with a 256th of the keys."""
_PART_BITS: Final = np.uint64(8)
_REST: Final = np.uint64(64) - _PART_BITS


def row_type(keys: int, sums: int) -> np.dtype[np.void]:
    """Rows with ``keys`` integers of 64 bits, ``sums`` numbers to add, and a range of time."""
    return np.dtype(
        [
            ("key", np.uint64, (keys,)),
            ("sums", float, (sums,)),
            ("start", np.uint64),
            ("end", np.uint64),
        ]
    )


class KeyedSums(Closing):
    """Sums of rows with the same key, their lowest start and their highest end.

    Rows whose first ``together`` integers of the key are the same come out in one part.
    Sums are doubles: exact up to 2**53, about right beyond. Memory is some 50 MB; each
    distinct key takes a row of the file for every time that the memory was full.
    """

    def __init__(self, kind: np.dtype[np.void], *, together: int, rows: int = ROWS) -> None:
        self._kind, self._together, self._rows = kind, together, rows
        # Nobody can choose keys that collide without it.
        self._seed = np.uint64(secrets.randbits(64))
        self._new: list[NDArray[np.void]] = []
        self._waiting = 0
        self._merged = np.empty(0, kind)
        self._file: IO[bytes] | None = None
        # Of each piece that was written: octets of the file before it, and its parts' ends.
        self._pieces: list[tuple[int, NDArray[np.intp]]] = []

    def close(self) -> None:
        """Remove the file."""
        if self._file:
            self._file.close()

    def add(self, rows: NDArray[np.void]) -> None:
        """Add rows; SinkError when the temporary file cannot be written."""
        self._new.append(rows)
        self._waiting += len(rows)
        if self._waiting >= self._rows:
            self._merge()
            if len(self._merged) >= self._rows:
                self._spill()

    def parts(self) -> Iterator[NDArray[np.void]]:
        """Yield the sums in parts, ``PARTS`` of them or one; each key occurs once."""
        self._merge()
        if not self._pieces:
            yield self._merged
            return
        self._spill()
        for part in range(PARTS):
            yield self._merge_rows(self._read(part))

    def _merge(self) -> None:
        self._merged = self._merge_rows(np.concatenate([self._merged, *self._new]))
        self._new, self._waiting = [], 0

    def _merge_rows(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Sum the rows of each key, in the order of their parts.

        Should two keys have one hash, a key may come out twice, with a part of its sum each.
        """
        if not len(rows):
            return rows
        hashes = self._hashes(rows)
        order = np.argsort(hashes)
        hashes, rows = hashes[order], rows[order]
        differs = np.any(rows["key"][1:] != rows["key"][:-1], axis=1)
        starts = np.flatnonzero(np.concatenate(([True], differs)))
        merged = rows[starts]
        merged["sums"] = np.add.reduceat(rows["sums"], starts)
        merged["start"] = np.minimum.reduceat(rows["start"], starts)
        merged["end"] = np.maximum.reduceat(rows["end"], starts)
        return merged

    def _hashes(self, rows: NDArray[np.void]) -> NDArray[np.uint64]:
        """The part in the highest bits, below it the hash of the whole key."""
        seed = np.full(len(rows), self._seed)
        columns = [rows["key"][:, n] for n in range(rows["key"].shape[1])]
        part = hashes_of([seed, *columns[: self._together]]) >> _REST
        return part << _REST | hashes_of([seed, *columns]) >> _PART_BITS

    def _spill(self) -> None:
        parts = self._hashes(self._merged) >> _REST
        ends = np.searchsorted(parts, np.arange(PARTS + 1, dtype=np.uint64))
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="flowstream-report-")  # noqa: SIM115 - see close
            self._pieces.append((self._file.seek(0, 2), ends))
            self._file.write(self._merged.view(np.uint8).data)
            self._file.flush()
        except OSError as err:
            raise SinkError(
                f"temporary file in {tempfile.gettempdir()}: {err.strerror}; set TMPDIR to a "
                "directory with more space"
            ) from err
        self._merged = np.empty(0, self._kind)

    def _read(self, part: int) -> NDArray[np.void]:
        size = self._kind.itemsize
        pieces = [np.empty(0, self._kind)]
        for before, ends in self._pieces:
            first, end = ends[part : part + 2].tolist()
            file: Any = self._file
            file.seek(before + first * size)
            pieces.append(np.frombuffer(file.read((end - first) * size), self._kind))
        return np.concatenate(pieces)
