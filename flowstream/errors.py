"""Every error that flowstream raises on purpose.

FlowstreamError
├── UsageError       a contradiction or mistake in options or configuration
├── KernelError      the kernel or an interface does not give what is needed
│   ├── MapFullError     an update found a BPF map full (E2BIG)
│   └── LayoutError      object, accessor and kernel disagree about a size
├── CompileError     bcc is missing, is the wrong package, or refused the source
├── SinkError        the place to publish to cannot be used
├── SourceError      a topic or recording cannot be read
└── DecodeError      a published value is not a record

Faults at start-up are raised; faults of single records while running are
counted (flowstream.counters), never raised.
"""

from __future__ import annotations


class FlowstreamError(Exception):
    """Root of the tree: its text is one line that names the thing and the remedy.

    ``exit_status`` is what the command line ends with.
    """

    exit_status = 1


class UsageError(FlowstreamError):
    """Options or configuration contradict themselves; the text names the key's path."""

    exit_status = 2


class KernelError(FlowstreamError):
    """The kernel or an interface does not give what is needed.

    ``errno`` is the kernel's error number, or 0 where none was returned.
    """

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class MapFullError(KernelError):
    """An update found the map full (E2BIG): nothing was changed."""


class LayoutError(KernelError):
    """A size that the object, the accessor or the kernel names differs from the others'."""


class CompileError(FlowstreamError):
    """The kernel program cannot be compiled here; the text says what is missing."""


class SinkError(FlowstreamError):
    """The place to publish to cannot be used as asked."""


class SourceError(FlowstreamError):
    """A topic or recording cannot be read; the text names topic, partition and offset."""


class DecodeError(FlowstreamError):
    """A value is not a record that this version can read."""
