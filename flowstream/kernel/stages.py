"""The steps of attaching to an interface, for errors."""

from __future__ import annotations

import enum
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flowstream.errors import AttachError, KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stage(enum.StrEnum):
    """What the kernel was asked for."""

    ENTERING = "entering"
    """the interface's network namespace"""
    MAPS = "maps"
    FILTERING = "filtering"
    """whether the filter has a meaning there"""
    LOADING = "loading"
    """the program"""
    PINNING = "pinning"
    ATTACHING = "attaching"


@contextmanager
def at(stage: Stage, mode: str) -> Iterator[None]:
    """Make a KernelError of the block an AttachError of this stage."""
    try:
        yield
    except AttachError:
        raise
    except KernelError as err:
        raise AttachError(str(err), err.errno, stage=stage, mode=mode) from err
