"""Exceptions of flowstream.

FlowstreamError
├── UsageError       mistake or contradiction in options or configuration
│   └── FilterError      filter expression is wrong
├── KernelError      kernel or interface lacks a requirement
│   ├── MapFullError     update of a full BPF map (E2BIG)
│   ├── AttachError      a step of attaching to an interface failed
│   └── LayoutError      object, accessor and kernel disagree about a size
├── CompileError     bcc is missing, is the wrong package, or rejects the source
├── SinkError        sink cannot be used
├── SourceError      topic or recording cannot be read
│   └── MissingTopicError    topics do not exist there
├── DecodeError      published value is not a record
└── MissingExtraError    a library of an extra is not installed; no fault of the data

Faults at start-up are raised; faults of single records while running are
counted (flowstream.accounting), never raised.
"""

from __future__ import annotations

from typing import Self


class FlowstreamError(Exception):
    """Root of the tree. Its text is one line that names the subject and the remedy.

    ``exit_status`` is the exit status of a command that it ends.
    """

    exit_status = 1

    @property
    def lines(self) -> list[str]:
        """The lines of its message."""
        return [str(self)]


class UsageError(FlowstreamError):
    """Mistake or contradiction in options or configuration; the text names the option."""

    exit_status = 2


class FilterError(UsageError):
    """The expression of a filter is wrong; lines behind the first show it and the place."""

    @property
    def lines(self) -> list[str]:
        """The message, the expression and a caret."""
        return str(self).split("\n")


class KernelError(FlowstreamError):
    """The kernel or an interface lacks a requirement.

    ``errno`` is the kernel's error number, 0 where it returned none.
    """

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class MapFullError(KernelError):
    """The map is full (E2BIG); the update changed nothing."""


class AttachError(KernelError):
    """The kernel refused a step of attaching to an interface.

    ``stage`` names the step, ``mode`` is the attach mode that was tried last (kernel.link.Mode).
    """

    def __init__(self, message: str, errno: int = 0, *, stage: str, mode: str) -> None:
        super().__init__(message, errno)
        self.stage, self.mode = stage, mode


class LayoutError(KernelError):
    """Object, accessor and kernel disagree about a size."""


class CompileError(FlowstreamError):
    """The kernel program cannot be compiled here; the text names the reason."""


class SinkError(FlowstreamError):
    """The sink cannot be used."""


class SourceError(FlowstreamError):
    """A topic or recording cannot be read; the text names its place."""


class MissingTopicError(SourceError):
    """Topics do not exist in a cluster or recording; ``topics`` are their names."""

    def __init__(self, message: str, topics: tuple[str, ...]) -> None:
        super().__init__(message)
        self.topics = topics


class DecodeError(FlowstreamError):
    """A published value is not a record that this version can read."""


class MissingExtraError(FlowstreamError):
    """A library of an extra is not installed: nothing is wrong with the data.

    Not a ``DecodeError``, so a consumer that sets bad records aside keeps its good
    ones. ``extra`` is the name for pip: flowstream[EXTRA].
    """

    exit_status = 2

    def __init__(self, extra: str, subject: str, reason: str = "") -> None:
        because = f" ({reason})" if reason else ""
        super().__init__(f"{subject} requires: pip install 'flowstream[{extra}]'{because}")
        self.extra = extra
        self._subject, self._reason = subject, reason

    def at(self, place: str) -> Self:
        """Return the same error with the place of the value that showed it."""
        return type(self)(self.extra, f"{place}: {self._subject}", self._reason)
