"""JSON Schema (draft 2020-12) of a topic's JSON values."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from flowstream.records import SCHEMA_VERSION, RecordType
from flowstream.records.json_form import CountersJson, FlowJson
from flowstream.schemas.topics import record_of
from flowstream.streams import Stream

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TOPICS: Final = {
    Stream.FLOWS: (FlowJson, RecordType.FLOW),
    Stream.NEW_FLOWS: (FlowJson, RecordType.NEW_FLOW),
    Stream.COUNTERS: (CountersJson, RecordType.COUNTERS),
}


def document(stream: Stream) -> dict[str, Any]:
    """JSON Schema of one topic.

    Properties stand in the order of the record's fields. Unknown properties are
    allowed, as fields may be added. Integers of 63 bits are not exact in readers
    that treat JSON numbers as doubles.
    """
    form, record_type = _TOPICS[stream]
    (reference,), definitions = msgspec.json.schema_components(
        [form], ref_template="#/$defs/{name}"
    )
    body = definitions.pop(reference["$ref"].rpartition("/")[2])
    properties = body["properties"]
    properties["record_type"] = {
        "description": properties["record_type"]["description"],
        "const": int(record_type),
    }
    written = {
        "$schema": _DIALECT,
        "$id": f"urn:flowstream:schema:{stream}:{SCHEMA_VERSION}",
        "title": f"flowstream {stream}",
        "description": (record_of(stream).__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": body["required"],
    }
    return {**written, "$defs": definitions} if definitions else written
