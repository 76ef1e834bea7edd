"""Finds attachments whose program another process has replaced or detached."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from flowstream.errors import KernelError
from flowstream.kernel.attached import program_in_force

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.following.thread import OwnThread
    from flowstream.pipeline.probe import Attachment

SUSPECT_S: Final = 1.0
"""How long the program of a link that goes is detached before its notice comes, at most."""


class Attached(Protocol):
    """The attachments of a run."""

    def __getitem__(self, key: AttachmentKey) -> Attachment:
        """Return the attachment of a key, which may be another later."""


class InForce:
    """Checks attachments every ``period_s``, and soon again where one seems detached."""

    def __init__(self, period_s: float, attached: Attached, thread: OwnThread) -> None:
        self._period_s, self._attached, self._thread = period_s, attached, thread
        self._suspects: set[AttachmentKey] = set()
        self.due = time.monotonic() + period_s

    def set_period(self, seconds: float) -> None:
        """Change the time between two checks."""
        self._period_s = seconds
        self.due = min(self.due, time.monotonic() + seconds)

    async def check(self, keys: Iterable[AttachmentKey]) -> list[tuple[AttachmentKey, int]]:
        """Return those that were taken off, with the program that is there now, 0 for none."""
        before = {key: self._attached[key] for key in keys}
        programs = await self._thread.run(_programs_of, [*before.values()])
        suspects, self._suspects = self._suspects, set()
        taken_off = []
        for (key, attachment), program in zip(before.items(), programs, strict=True):
            # A new sampling rate has replaced the program meanwhile.
            if program == attachment.program.id or self._attached[key] is not attachment:
                continue
            if program or key in suspects:
                taken_off.append((key, program))
            else:
                self._suspects.add(key)
        pause_s = min(SUSPECT_S, self._period_s) if self._suspects else self._period_s
        self.due = time.monotonic() + pause_s
        return taken_off


def _programs_of(attachments: Sequence[Attachment]) -> list[int]:
    return [_program_of(each) for each in attachments]


def _program_of(attachment: Attachment) -> int:
    try:
        return program_in_force(attachment.link_fd)
    except KernelError:  # it has another descriptor, or is detached, since this check began
        return attachment.program.id
