"""Removes what runs with ``--pin`` have left in a directory, and says what was in there."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flowstream.accounting.attachment_key import EGRESS, AttachmentKey
from flowstream.errors import KernelError
from flowstream.host.privileges import User
from flowstream.kernel import earlier_books
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.removal import remove_all
from flowstream.layouts.constants import EndReason
from flowstream.wording import counted

if TYPE_CHECKING:
    from flowstream.accounting.books import Ended, Entry
    from flowstream.kernel.removal import RemovedRun


class Detached(NamedTuple):
    """A line for each run whose pins were removed, oldest first, and what could not be."""

    runs: list[str]
    left: list[str]


def detach(path: str) -> Detached:
    """Detach all programs that are pinned below ``path``, and remove the directory.

    KernelError, with the remedy, when there is no such directory, an agent uses it, or it
    belongs to another user.
    """
    owner = _owner_of(path)
    with PinDirectory(path, owner, create=False) as directory:
        removal = remove_all(directory, EndReason.FORCED)
    return Detached([_line(run, User(*owner)) for run in removal.runs], removal.left)


def _owner_of(path: str) -> Owner:
    try:
        status = Path(path).lstat()
    except OSError as err:
        raise KernelError(f"{path}: {err.strerror}", err.errno or 0) from err
    if os.geteuid() not in (0, status.st_uid):
        raise KernelError(
            f"{path} belongs to {_user(status.st_uid)}: run as that user, or as root"
        )
    return Owner(status.st_uid, status.st_gid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _line(run: RemovedRun, user: User) -> str:
    began = datetime.fromtimestamp(run.epoch / 1e9, UTC)
    ended, fault = None, run.fault
    if not fault:
        try:
            ended = earlier_books.read(run.books.items(), user)
        except ValueError as err:
            fault = f"its books cannot be read: {err}"
    detached = [_interface(code, index, ended) for code, index in sorted(run.links.items())]
    return (
        f"run of {began:%Y-%m-%d %H:%M:%S} UTC (agent_epoch {run.epoch}): "
        f"{'detached from ' + ', '.join(detached) if detached else 'was not attached'}; "
        f"{_unpublished(run, ended, fault)}"
    )


def _interface(code: int, index: int, ended: Ended | None) -> str:
    entry = ended.entries.get(AttachmentKey.of_code(code)) if ended else None
    name = entry.facts.interface if entry else f"interface {index}" if index else "an interface"
    where = f" in {entry.facts.netns}" if entry and entry.facts.netns else ""
    if AttachmentKey.of_code(code).flow_direction == EGRESS:
        where += " (egress)"
    return f"{name}{where}" if index else f"{name}{where}, which is gone"


def _unpublished(run: RemovedRun, ended: Ended | None, fault: str) -> str:
    if ended is None:
        return f"{counted(run.drained, 'packet')} or more had not been published: {fault}"
    packets = sum(_of_attachment(run, key, entry) for key, entry in ended.entries.items())
    return f"{counted(packets, 'packet')} had not been published"


def _of_attachment(run: RemovedRun, key: AttachmentKey, entry: Entry) -> int:
    """Packets that are neither published, lost for a cause, nor wait in the spool."""
    present = run.counts.get(key.code) if entry.attached else None
    recorded = sum(
        counts.recorded.packets for counts in (present, entry.kernel) if counts is not None
    )
    return recorded - entry.account.amount.packets - entry.account.spool.packets
