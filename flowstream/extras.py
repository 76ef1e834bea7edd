"""Extras: libraries that only some parts of the package need."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flowstream.errors import FlowstreamError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def requires(extra: str, subject: str) -> Iterator[None]:
    """Turn a failed import of another project's library into ``MissingExtraError``.

    ``extra`` is the name in pyproject.toml, ``subject`` the command or object that needs
    it. A standard module that this system lacks is a ``FlowstreamError``; a failed import
    of this package's own modules stays an ``ImportError``.
    """
    try:
        yield
    except ImportError as err:
        library = (err.name or "").partition(".")[0]
        if library in sys.stdlib_module_names:
            raise FlowstreamError(
                f"{subject} is not supported on this system: Python has no {library} here"
            ) from err
        if library in ("", "flowstream"):
            raise
        raise MissingExtraError(extra, subject, str(err)) from err
