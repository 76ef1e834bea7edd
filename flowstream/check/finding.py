"""One line of a check: status, subject, text and remedy."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """Outcome of a check: WARN works with restrictions, FAIL does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: the subject, its state, and the remedy ("" where none is needed)."""

    status: Status
    subject: str
    text: str
    remedy: str = ""
