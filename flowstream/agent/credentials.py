"""Whether the agent can go on reading certificates, keys and passwords of a Kafka client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flowstream.errors import UsageError
from flowstream.files import shown
from flowstream.host import unprivileged
from flowstream.kafka.credentials import reread_files

if TYPE_CHECKING:
    from flowstream.host.privileges import User
    from flowstream.kafka.settings import ClientSettings


def require_readable(settings: ClientSettings, user: User, name: str) -> None:
    """Raise ``UsageError`` for a file that the agent's user, called ``name``, cannot read.

    A renewed certificate would go unnoticed, and connections fail once the old one ends.
    """
    files = reread_files(settings)
    if not files:
        return
    places = {place: str(path) for place, path in files.items()}
    unreadable = unprivileged.call(user, lambda: _unreadable(places), list[str])
    for place in unreadable:
        file = shown(files[place])
        raise UsageError(
            f"{place}: {file}: the user {name} cannot read it, so it could not be read again "
            f"when it changes: setfacl -m u:{name}:r {file}, name another --user, or use "
            "systemd's LoadCredential="
        )


def _unreadable(places: dict[str, str]) -> list[str]:
    return [
        place
        for place, path in places.items()
        if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0))  # noqa: PTH112
    ]
