"""Reads a TOML file; errors name the file and the line."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final

from flowstream.errors import UsageError
from flowstream.files import open_regular, shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_OCTETS: Final = 1 << 20


def read_table(file: Path) -> dict[str, Any]:
    """Read a file of at most 1 MiB. Raises ``UsageError`` that names it and the line."""
    return _parse(file, _text(file))


def _text(file: Path) -> str:
    try:
        with open_regular(file) as stream:
            content = stream.read(MAX_FILE_OCTETS + 1)
    except OSError as err:
        raise UsageError(f"{shown(file)}: cannot be read: {err.strerror}") from err
    if len(content) > MAX_FILE_OCTETS:
        raise UsageError(f"{shown(file)}: exceeds the 1 MiB limit of a configuration")
    try:
        return content.decode()
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise UsageError(f"{shown(file)}: line {line}: not UTF-8 text") from err


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as err:  # TOMLDecodeError, or a number of over 4300 digits
        raise UsageError(f"{shown(file)}: not valid TOML: {err}") from err
    except RecursionError as err:
        raise UsageError(f"{shown(file)}: nested too deeply") from err
