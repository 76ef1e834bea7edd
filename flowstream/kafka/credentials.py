"""The files that settings name: certificates, keys and secrets."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowstream.kafka.secrets import Secret
    from flowstream.kafka.settings import ClientSettings


class Exposed(NamedTuple):
    """A file with a secret that other users may read or change; ``mode`` are its bits."""

    file: Path
    mode: int

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return f"chmod o-rwx {self.file}"


def exposed(settings: ClientSettings) -> list[Exposed]:
    """Return the files with a password or private key that others may read or change.

    None on Windows, where a file's mode does not say it.
    """
    if sys.platform == "win32":
        return []
    secrets = (each for _, each in _secrets(settings))
    files = [each.file for each in secrets if each.file is not None]
    if settings.tls is not None and settings.tls.certificate is not None:
        files.append(settings.tls.key or settings.tls.certificate)
    found = []
    for file in dict.fromkeys(files):
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError:
            continue
        if mode & stat.S_IRWXO:
            found.append(Exposed(file, mode))
    return found


def reread_files(settings: ClientSettings) -> dict[str, Path]:
    """Return the files and directories that are read again later, by the property's name.

    Those of systemd's credentials are left out: they never change while a service runs.
    """
    found = {
        name: secret.file
        for name, secret in _secrets(settings)
        if secret.file is not None and secret.has_own_file
    }
    oauth = settings.sasl.oauth if settings.sasl is not None else None
    # OpenSSL reads a directory while it verifies, a file at once.
    if oauth is not None and oauth.ca is not None and oauth.ca.is_dir():
        found["https.ca.location"] = oauth.ca
    if settings.tls is not None:
        paths = {
            "ssl.ca.location": settings.tls.ca,
            "ssl.certificate.location": settings.tls.certificate,
            "ssl.key.location": settings.tls.key,
        }
        found |= {name: path for name, path in paths.items() if path is not None}
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if not credentials:
        return found
    return {name: path for name, path in found.items() if not path.is_relative_to(credentials)}


def _secrets(settings: ClientSettings) -> Iterator[tuple[str, Secret]]:
    if settings.tls is not None and settings.tls.key_password is not None:
        yield "ssl.key.password", settings.tls.key_password
    if settings.sasl is not None and settings.sasl.password is not None:
        yield "sasl.password", settings.sasl.password
    if settings.sasl is not None and settings.sasl.oauth is not None:
        yield "sasl.oauthbearer.client.secret", settings.sasl.oauth.client_secret
