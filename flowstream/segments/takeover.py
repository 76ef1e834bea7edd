"""Checks of a directory that shall be a spool, before anything in it is changed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import structlog

from flowstream.errors import SinkError
from flowstream.segments import checkpoint
from flowstream.segments.checkpoint import Checkpoint
from flowstream.segments.claim import check_contents
from flowstream.segments.reader import PARTITION_NAME
from flowstream.segments.stored import FILE_NAME

if TYPE_CHECKING:
    from flowstream.segments.directory import Directory

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger(__name__)


def check_spool(root: Directory, where: str) -> None:
    """Raise ``SinkError`` for anything but a spool or an empty directory.

    A recording, which has no sidecars, would be published and deleted.
    """
    others = (checkpoint.NAME, checkpoint.NEW_NAME)
    check_contents(root, where, "spool", FILE_NAME, others)
    names = root.names()
    kinds = set()
    for name in names:
        if PARTITION_NAME.fullmatch(name):
            with root.directory(name) as partition:
                kinds |= {file.rpartition(".")[2] for file in partition.names()}
    if kinds == {"log"} and checkpoint.NAME not in names:
        raise SinkError(f"{where}: it has a recording, not a spool; use another directory")


def read_checkpoint(root: Directory, where: str) -> Checkpoint:
    """Read the checkpoint: an empty one where it is missing or, with a warning, damaged.

    Raises ``SinkError`` for an unknown version, ``OSError`` where it cannot be read.
    """
    data = checkpoint.read(root)
    if data is None:
        return Checkpoint()
    try:
        return checkpoint.unpack(data)
    except checkpoint.UnknownVersionError as err:
        raise SinkError(
            f"{where}: {err} is unknown; use the release that wrote it, or another directory"
        ) from err
    except ValueError as err:
        log.warning("spool_checkpoint_damaged", directory=str(root.path), error=str(err))
        return Checkpoint()


def write_first(root: Directory, found: Checkpoint, *, something_waits: bool) -> None:
    """Write the checkpoint as it was: a place where that is impossible is of no use.

    A full disk is, if something waits there: publishing it makes room.
    """
    try:
        checkpoint.write(root, found)
    except OSError as err:
        if err.errno not in _FULL or not something_waits:
            raise
        log.warning("spool_disk_full", directory=str(root.path))
