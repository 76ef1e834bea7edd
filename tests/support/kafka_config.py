"""Files with the properties of Kafka clients, as --kafka-config takes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def table(properties: Mapping[str, object]) -> str:
    """A [kafka] table of TOML."""
    # JSON's texts and numbers are TOML's, too.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in properties.items()]
    return "[kafka]\n" + "".join(lines)


def write(file: Path, properties: Mapping[str, object], mode: int = 0o600) -> Path:
    """Write a file that has nothing but this table."""
    file.touch(mode=mode)
    file.write_text(table(properties), encoding="utf-8")
    return file
