"""Secrets: text that no message shows, from the configuration or from a file of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NoReturn

from flowstream.files import open_regular, shown

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_FILE: Final = 64 << 10
"""Octets of a file with a secret."""


class Secret:
    """A password or the like. Only ``reveal`` returns it; text of the object does not.

    ``file`` is the file that holds it, if there is one.
    """

    __slots__ = ("_signature", "_text", "fault", "file")

    def __init__(self, text: str, file: Path | None = None) -> None:
        self._text, self.file = text, file
        self._signature: Signature | None = None
        self.fault = ""
        """Why the present content of the file is not used; "" if it is."""

    @classmethod
    def of_file(cls, file: Path) -> Secret:
        """Read a file whose only line is the secret. Raises OSError and ValueError."""
        secret = cls(_read(file), file)
        secret._signature = signature_of(file)
        return secret

    @property
    def has_own_file(self) -> bool:
        """Whether the file holds the secret alone, and is read again when it changes."""
        return self._signature is not None

    def refresh(self) -> bool:
        """Read a file of its own again; return whether it changed.

        ``fault`` says why a changed file cannot be used; the former text stays.
        """
        if self.file is None or self._signature is None:
            return False
        try:
            signature = signature_of(self.file)
        except OSError:
            # Out of reach by now, or about to be replaced.
            return False
        if signature == self._signature:
            return False
        try:
            self._text = _read(self.file)
        except OSError as err:
            self.fault = f"{shown(self.file)}: cannot be read: {err.strerror}"
            return False
        except ValueError as err:
            self.fault = str(err)
            return False
        self._signature, self.fault = signature, ""
        return True

    def reveal(self) -> str:
        """Return the secret itself, for a library that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


Signature = tuple[int, int, int, int]


def signature_of(file: Path) -> Signature:
    """Return what changes when a file is written or replaced. Raises OSError."""
    found = os.stat(file)  # noqa: PTH116 - a link is followed, as opening does
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path) -> str:
    with open_regular(file) as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{shown(file)}: larger than {LARGEST_FILE >> 10} KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        # Without its cause, which has the content.
        raise ValueError(f"{shown(file)}: not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text or "\0" in text:
        raise ValueError(f"{shown(file)}: not one line of text")
    return text
