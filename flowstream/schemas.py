"""JSON Schema (draft 2020-12) of every topic's JSON values, generated from the Structs.

``python -m flowstream.schemas --write DIR`` writes the documents,
``--check DIR`` exits 1 when those in DIR differ from what would be written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowstream.batch import Stream
from flowstream.records import SCHEMA_VERSION, CountersRecord, FlowRecord, RecordType
from flowstream.records.json_form import CountersJson, FlowJson

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TOPICS: Final = {
    Stream.FLOWS: (FlowJson, FlowRecord, RecordType.FLOW),
    Stream.NEW_FLOWS: (FlowJson, FlowRecord, RecordType.NEW_FLOW),
    Stream.COUNTERS: (CountersJson, CountersRecord, RecordType.COUNTERS),
}


def documents() -> dict[Stream, dict[str, Any]]:
    """JSON Schema of each topic.

    Properties stand in the order of the record's fields. Unknown properties are
    allowed, as fields may be added; integers of 64 bits exceed what a reader
    that takes JSON numbers for doubles can hold exactly.
    """
    return {stream: _document(stream) for stream in _TOPICS}


def _document(stream: Stream) -> dict[str, Any]:
    form, record, record_type = _TOPICS[stream]
    (reference,), definitions = msgspec.json.schema_components(
        [form], ref_template="#/$defs/{name}"
    )
    body = definitions.pop(reference["$ref"].rpartition("/")[2])
    properties = body["properties"]
    properties["record_type"] = {
        "description": properties["record_type"]["description"],
        "const": int(record_type),
    }
    document = {
        "$schema": _DIALECT,
        "$id": f"urn:flowstream:schema:{stream}:{SCHEMA_VERSION}",
        "title": f"flowstream {stream}",
        "description": (record.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": body["required"],
    }
    return {**document, "$defs": definitions} if definitions else document


def files() -> dict[str, str]:
    """File name and text of each document."""
    return {
        f"{stream}.schema.json": json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for stream, document in documents().items()
    }


def write(directory: Path) -> None:
    """Write the documents into ``directory``, which is made when missing."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text, encoding="utf-8")


def outdated(directory: Path) -> list[str]:
    """Names of the files in ``directory`` that are missing or differ."""
    return [
        name
        for name, text in files().items()
        if not (path := directory / name).is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flowstream.schemas", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="DIR", type=Path, help="write the documents into DIR")
    action.add_argument("--check", metavar="DIR", type=Path, help="compare those in DIR")
    options = parser.parse_args(arguments)
    if options.write:
        write(options.write)
        return 0
    names = outdated(options.check)
    for name in names:
        sys.stderr.write(f"{options.check / name} is not what --write gives\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
