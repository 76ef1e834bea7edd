"""Every way of breaking a reader is found in each kind of schema, and nothing else is."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from flowstream import schemas
from tools.compatibility import breaks

RELEASED = schemas.files(schemas.VALUE_FORMATS)
AVRO, PROTO, JSON = "flows.avsc", "flows.proto", "flows.schema.json"
COUNTERS_AVRO, COUNTERS_PROTO = "counters.avsc", "counters.proto"
COUNTERS_JSON = "counters.schema.json"
LAYOUT = "flows.layout.json"


def changed(file: str, old: str, new: str) -> list[str]:
    """Messages after text in one file was replaced."""
    text = RELEASED[file]
    assert text.count(old) == 1
    return breaks(RELEASED, RELEASED | {file: text.replace(old, new)})


def edited(file: str, edit: Any) -> list[str]:
    """Messages after ``edit`` changed a JSON document in place."""
    document = copy.deepcopy(json.loads(RELEASED[file]))
    edit(document)
    return breaks(RELEASED, RELEASED | {file: json.dumps(document)})


def avro_field(document: Any, name: str) -> dict[str, Any]:
    (field,) = (field for field in document["fields"] if field["name"] == name)
    return field


def test_nothing_changed():
    assert breaks(RELEASED, RELEASED) == []


@pytest.mark.parametrize("file", RELEASED)
def test_every_field_of_every_file_is_looked_at(file):
    """Every removed field is missed: one that is not read would not be."""
    (first, *_) = (line for line in breaks(RELEASED, RELEASED | {file: EMPTY[file]}))
    assert first.startswith(f"{file}: ")
    said = breaks(RELEASED, RELEASED | {file: EMPTY[file]})
    assert len(said) == FIELDS[file]


EMPTY = {
    file: ""
    if file.endswith(".proto")
    else json.dumps(
        {"title": "", "properties": {}, "required": []} if file.endswith(".json") else {}
    )
    for file in RELEASED
}
# Of Amount, Loss, StageCounts and SpoolCounts: 2, 3, 7 and 5.
PARTS = 17
FIELDS = {
    AVRO: 38,
    PROTO: 39,
    JSON: 38,
    LAYOUT: 34,
    "new_flows.schema.json": 38,
    COUNTERS_AVRO: 31 + PARTS,
    COUNTERS_PROTO: 31 + PARTS,
    COUNTERS_JSON: 31 + PARTS,
}


def test_a_file_removed():
    rest = {name: text for name, text in RELEASED.items() if name != AVRO}
    assert breaks(RELEASED, rest) == ["flows.avsc: was removed"]


def test_protobuf_field_removed():
    assert changed(PROTO, "  uint64 packets = 10;\n", "") == [
        "flows.proto: FlowMessage.packets was removed"
    ]


def test_protobuf_field_renamed():
    assert changed(PROTO, "uint64 packets = 10;", "uint64 frames = 10;") == [
        "flows.proto: FlowMessage.packets was renamed to frames"
    ]


def test_protobuf_field_retyped():
    assert changed(PROTO, "uint64 packets = 10;", "fixed64 packets = 10;") == [
        "flows.proto: FlowMessage.packets was retyped from uint64 to fixed64"
    ]


def test_protobuf_field_renumbered():
    assert changed(PROTO, "uint64 packets = 10;", "uint64 packets = 8;") == [
        "flows.proto: FlowMessage.packets was renumbered from 10 to 8"
    ]


def test_protobuf_part_of_a_record():
    assert changed(COUNTERS_PROTO, "uint64 spooled = 5;", "uint64 spooled = 7;") == [
        "counters.proto: StageCounts.spooled was renumbered from 5 to 7"
    ]


def test_protobuf_field_added():
    assert changed(PROTO, "\n}\n", "\n  uint32 added = 1200;\n}\n") == []


def test_avro_field_removed():
    assert edited(AVRO, lambda it: it["fields"].pop()) == [
        "flows.avsc: FlowRecord.community_id was removed"
    ]


def test_avro_field_renamed():
    assert edited(AVRO, lambda it: avro_field(it, "packets").update(name="frames")) == [
        "flows.avsc: FlowRecord.packets was renamed to frames",
        "flows.avsc: FlowRecord.frames was added without a default",
    ]


def test_avro_field_retyped():
    assert edited(AVRO, lambda it: avro_field(it, "packets").update(type="int")) == [
        "flows.avsc: FlowRecord.packets was retyped from long to int"
    ]


def test_avro_text_of_another_class():
    def edit(document: Any) -> None:
        avro_field(document, "src_mac")["type"]["avro.java.string"] = "CharSequence"

    (said,) = edited(AVRO, edit)
    assert said.startswith("flows.avsc: FlowRecord.src_mac was retyped from ")


def test_avro_field_added_in_the_middle():
    """Avro itself would take it with a default, a MessagePack array does not."""
    added = {"name": "added", "type": "int", "default": 0}
    said = edited(AVRO, lambda it: it["fields"].insert(36, added))
    assert said == [
        "flows.avsc: FlowRecord.flow_direction was renumbered from 36 to 37",
        "flows.avsc: FlowRecord.community_id was renumbered from 37 to 38",
    ]


def test_avro_field_added_at_the_end():
    added = {"name": "added", "type": "int"}
    assert edited(AVRO, lambda it: it["fields"].append(added)) == [
        "flows.avsc: FlowRecord.added was added without a default"
    ]
    assert edited(AVRO, lambda it: it["fields"].append(added | {"default": 0})) == []


def test_avro_default_removed():
    assert edited(AVRO, lambda it: avro_field(it, "community_id").pop("default")) == [
        "flows.avsc: FlowRecord.community_id lost its default"
    ]


def test_avro_part_of_a_record():
    def edit(document: Any) -> None:
        avro_field(document, "losses")["type"]["values"]["fields"][0]["type"] = "int"

    # in_doubt, which comes later, names the same type.
    assert edited(COUNTERS_AVRO, edit) == [
        "counters.avsc: Loss.records was retyped from long to int"
    ]


def test_layout_field_moved_or_resized():
    def edit(document: Any) -> None:
        document["fields"][-1]["offset"] += 1
        document["fields"][0]["octets"] = 2

    assert edited(LAYOUT, edit) == [
        "flows.layout.json: layout.record_type was retyped from u8 of 1 octets to u8 of 2 octets",
        "flows.layout.json: layout.flow_direction was renumbered from 229 to 230",
    ]


def test_layout_field_added_at_the_end():
    added = {"name": "added", "offset": 231, "octets": 1, "type": "u8"}
    assert edited(LAYOUT, lambda it: it["fields"].append(added)) == []


def test_json_property_removed():
    assert edited(JSON, lambda it: it["properties"].pop("packets")) == [
        "flows.schema.json: flowstream flows.packets was removed"
    ]


def test_json_property_retyped():
    (said,) = edited(JSON, lambda it: it["properties"]["packets"].update(type="string"))
    assert said.startswith("flows.schema.json: flowstream flows.packets was retyped from ")


def test_json_range_narrowed():
    (said,) = edited(JSON, lambda it: it["properties"]["proto"].update(maximum=254))
    assert "flowstream flows.proto was retyped from" in said


def test_json_property_added():
    def add(document: Any) -> None:
        document["properties"]["added"] = {"type": "integer"}

    def require(document: Any) -> None:
        add(document)
        document["required"].append("added")

    assert edited(JSON, add) == []
    assert edited(JSON, require) == [
        "flows.schema.json: flowstream flows.added was added without a default"
    ]


def test_json_property_that_may_be_absent_now():
    assert edited(JSON, lambda it: it["required"].remove("packets")) == [
        "flows.schema.json: flowstream flows.packets may be absent now"
    ]


def test_json_property_that_may_no_longer_be_absent():
    assert edited(JSON, lambda it: it["required"].append("community_id")) == [
        "flows.schema.json: flowstream flows.community_id lost its default"
    ]


def test_json_part_of_a_record():
    assert edited(COUNTERS_JSON, lambda it: it["$defs"]["Loss"]["properties"].pop("packets")) == [
        "counters.schema.json: Loss.packets was removed"
    ]


@pytest.mark.parametrize("file", RELEASED)
def test_other_words_break_nobody(file):
    text = RELEASED[file].replace("Unix ns", "nanoseconds")
    assert text != RELEASED[file]
    assert breaks(RELEASED, RELEASED | {file: text}) == []
