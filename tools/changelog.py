"""The version's section of CHANGELOG.md: the date of the release."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import flowstream

_CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"


def released() -> dt.date:
    """Return the date of this version.

    Everything that is built has this date, so that the same sources always give the same
    octets. Raises ``ValueError`` when CHANGELOG.md has no section for the version.
    """
    heading = rf"^## \[{re.escape(flowstream.__version__)}\] - (\d{{4}}-\d{{2}}-\d{{2}})$"
    found = re.search(heading, _CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(
            f"CHANGELOG.md: no section [{flowstream.__version__}] with a date; "
            "add it, or set flowstream.__version__ to that of the section"
        )
    return dt.date.fromisoformat(found[1])


def released_s() -> int:
    """Return the date of this version as Unix seconds, at midnight UTC; raises as ``released``."""
    return int(dt.datetime.combine(released(), dt.time(), dt.UTC).timestamp())
