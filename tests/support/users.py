"""Starts processes as another user than root."""

from __future__ import annotations

from typing import Final

AS_NOBODY: Final = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    # The installation may be below a directory that only root can read, as /root.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
"""Before a command: it can read everything, and do nothing else that nobody cannot do."""
