"""Check that schemas are compatible with the values and readers of a release.

The only compatible change is a field added at the end, with a default: JSON
readers ignore it, Avro readers on either side use the default, protobuf numbers
stay, and MessagePack arrays grow at the end.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MESSAGE: Final = re.compile(r"message (\w+) \{")
_PROTO_FIELD: Final = re.compile(r"  (\S.*) (\w+) = ([0-9]+);")
_NOTES: Final = ("description", "examples")


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a schema. ``number`` is the protobuf number or the Avro position."""

    owner: str
    name: str
    type: str
    number: int | None
    optional: bool


def breaks(released: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Return the changes in ``current`` that break readers or values of ``released``.

    Both map file names (``.avsc``, ``.proto``, ``.schema.json``) to contents.
    """
    found = []
    for file, content in released.items():
        if file not in current:
            found.append(f"{file}: was removed")
            continue
        before, now = (
            {(field.owner, field.name): field for field in _fields(file, text)}
            for text in (content, current[file])
        )
        found += [f"{file}: {what}" for what in _breaks(before, now)]
    return found


def _breaks(
    before: Mapping[tuple[str, str], _Field], now: Mapping[tuple[str, str], _Field]
) -> Iterator[str]:
    for key, old in before.items():
        name = f"{old.owner}.{old.name}"
        new = now.get(key)
        if new is None:
            yield f"{name} was {_fate(old, [now[key] for key in now if key not in before])}"
            continue
        if old.type != new.type:
            yield f"{name} was retyped from {old.type} to {new.type}"
        if old.number != new.number:
            yield f"{name} was renumbered from {old.number} to {new.number}"
        if old.optional and not new.optional:
            yield f"{name} lost its default"
        if new.optional and not old.optional and new.number is None:
            yield f"{name} may be absent now"
    owners = {owner for owner, _ in before}
    for key, new in now.items():
        if key not in before and new.owner in owners and not new.optional:
            yield f"{new.owner}.{new.name} was added without a default"


def _fate(gone: _Field, added: list[_Field]) -> str:
    for field in added:
        if field.number is not None and (field.owner, field.number) == (gone.owner, gone.number):
            return f"renamed to {field.name}"
    return "removed"


def _fields(file: str, text: str) -> Iterator[_Field]:
    if file.endswith(".proto"):
        return _proto_fields(text)
    if file.endswith(".avsc"):
        return _avro_fields(json.loads(text))
    if file.endswith(".layout.json"):
        return _layout_fields(json.loads(text))
    return _json_fields(json.loads(text))


def _proto_fields(text: str) -> Iterator[_Field]:
    """Yield the fields of a definition in the layout of ``flowstream.records.protobuf_schema``."""
    owner = ""
    for line in text.splitlines():
        if message := _MESSAGE.fullmatch(line):
            owner = message[1]
        elif field := _PROTO_FIELD.fullmatch(line):
            yield _Field(owner, field[2], field[1], int(field[3]), optional=True)


def _avro_fields(schema: Any) -> Iterator[_Field]:
    if not isinstance(schema, dict):
        return
    for place, field in enumerate(schema.get("fields", ())):
        inner = field["type"]
        yield _Field(schema["name"], field["name"], _avro_type(inner), place, "default" in field)
        yield from _avro_fields(inner["values"] if _is_map(inner) else inner)


def _avro_type(schema: Any) -> str:
    if _is_map(schema):
        return f"map of {_avro_type(schema['values'])}"
    if not isinstance(schema, dict):
        return str(schema)
    # A named type is compared by itself, wherever it is defined.
    return str(schema.get("name") or json.dumps(schema, sort_keys=True))


def _layout_fields(layout: Any) -> Iterator[_Field]:
    for field in layout.get("fields", ()):
        size = f"{field['type']} of {field['octets']} octets"
        yield _Field("layout", field["name"], size, field["offset"], optional=True)


def _is_map(schema: Any) -> bool:
    return isinstance(schema, dict) and schema["type"] == "map"


def _json_fields(schema: dict[str, Any]) -> Iterator[_Field]:
    parts = {schema["title"]: schema, **schema.get("$defs", {})}
    for owner, part in parts.items():
        for name, kind in part["properties"].items():
            essence = {key: value for key, value in kind.items() if key not in _NOTES}
            optional = name not in part["required"]
            yield _Field(owner, name, json.dumps(essence, sort_keys=True), None, optional)
