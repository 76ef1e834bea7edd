"""The segment of the spool that is written: a log and its sidecar."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from flowstream.closing import Closing
from flowstream.segments.directory import write_at
from flowstream.segments.stored import log_name, tally_name
from flowstream.segments.tallies import file_header

if TYPE_CHECKING:
    from flowstream.segments.directory import Directory


class ActiveSegment(Closing):
    """Creates BASE.tally and BASE.log; raises ``OSError``, and neither is left."""

    def __init__(self, directory: Directory, base: int) -> None:
        self._tally = directory.create(tally_name(base))
        self._log = -1
        self.position = 0
        """Where the next batch begins."""
        self._tally_end = 0
        # Octets were written, or the files created, since they were last made durable.
        self._dirty = True
        try:
            self._log = directory.create(log_name(base))
            self._tally_end = write_at(self._tally, file_header(), 0)
        except BaseException:
            self.close()
            for name in (log_name(base), tally_name(base)):
                with contextlib.suppress(OSError):
                    directory.remove(name)
            raise

    @property
    def octets(self) -> int:
        """Octets of both files."""
        return self.position + self._tally_end

    def append(self, entry: bytes, batch: bytearray) -> None:
        """Write an entry, then its batch; ``OSError``, and nothing is added."""
        self._dirty = True
        try:
            tally_end = write_at(self._tally, entry, self._tally_end)
            self.position = write_at(self._log, batch, self.position)
        except OSError:
            # If even this fails, the next batch overwrites the rest.
            for descriptor, size in ((self._log, self.position), (self._tally, self._tally_end)):
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
            raise
        self._tally_end = tally_end

    def sync(self) -> None:
        """Make everything durable; ``OSError`` where that is not certain."""
        if self._dirty:
            os.fsync(self._tally)
            os.fsync(self._log)
            if not os.fstat(self._log).st_nlink:
                raise OSError(errno.ENOENT, "a file was deleted while it was written")
            self._dirty = False

    def close(self) -> None:
        """Close the files without making them durable; harmless twice."""
        for descriptor in (self._tally, self._log):
            if descriptor >= 0:
                os.close(descriptor)
        self._tally = self._log = -1
