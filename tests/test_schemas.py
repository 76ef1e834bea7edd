"""The JSON Schemas: what is published fits them, and the files are what the Structs give."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from support.records import COUNTERS, EPOCH, SAMPLER, random_flows

from flowstream import __version__, schemas
from flowstream.accounting.identity import Identity
from flowstream.cli.main import main
from flowstream.config.publish import PublishConfig
from flowstream.encode import make_encoder, stamp
from flowstream.records import decode
from flowstream.schemas import json_schema
from flowstream.streams import Stream
from tools import schema_files as command

IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0"})
CHECKED_IN = Path(__file__).parent.parent / "schemas"


def validator(stream: Stream) -> jsonschema.Draft202012Validator:
    document = json_schema.document(stream)
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(
        document, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def published(stream: Stream, *, community_id: bool = True) -> dict[str, object]:
    encoder = make_encoder("json", IDENTITY, community_id=community_id)
    if stream is Stream.COUNTERS:
        return json.loads(encoder.encode_counters(COUNTERS))
    records = random_flows(1)
    records["record_type"] = 1 if stream is Stream.FLOWS else 2
    stamp(records, IDENTITY, 2**63 - 1)
    (value,) = encoder.encode(records)
    return json.loads(value)


@pytest.mark.parametrize("stream", Stream)
def test_published_value_fits_its_schema(stream):
    value = published(stream)
    validator(stream).validate(value)
    assert list(value) == list(json_schema.document(stream)["properties"])


# What values of older agents lack, and the field that --community-id adds.
OPTIONAL = ("spool", "netns", "previous_epoch", "community_id")


@pytest.mark.parametrize("stream", Stream)
def test_every_property_is_described_and_required_but_the_optional_ones(stream):
    document = json_schema.document(stream)
    always = [name for name in document["properties"] if name not in OPTIONAL]
    assert document["required"] == always
    assert all(property_.get("description") for property_ in document["properties"].values())


def test_the_community_id_may_be_absent():
    value = published(Stream.FLOWS, community_id=False)
    assert "community_id" not in value
    validator(Stream.FLOWS).validate(value)


@pytest.mark.parametrize("stream", Stream)
def test_fields_of_a_newer_version_fit(stream):
    validator(stream).validate(published(stream) | {"schema_version": 2, "added": "later"})


@pytest.mark.parametrize(
    ("stream", "wrong"),
    [
        (Stream.FLOWS, {"record_type": 2}),
        (Stream.NEW_FLOWS, {"record_type": 1}),
        (Stream.COUNTERS, {"record_type": 1}),
        (Stream.FLOWS, {"schema_version": 0}),
        (Stream.FLOWS, {"src_addr": "10.0.0"}),
        (Stream.FLOWS, {"src_mac": "02-00-00-00-00-01"}),
        (Stream.FLOWS, {"host_id": "00"}),
        (Stream.FLOWS, {"packets": 2**63}),
        (Stream.FLOWS, {"src_net": 129}),
        (Stream.FLOWS, {"flow_direction": 2}),
        (Stream.FLOWS, {"sampler_address": "agent"}),
        (Stream.FLOWS, {"packets": "1"}),
        (Stream.FLOWS, {"proto": 256}),
        (Stream.COUNTERS, {"attach_mode": "auto"}),
        (Stream.COUNTERS, {"no_flow": {"non_ip": {"packets": 1}}}),
        (Stream.COUNTERS, {"losses": {"overflow_lost": {"records": 1}}}),
    ],
)
def test_other_values_do_not_fit(stream, wrong):
    with pytest.raises(jsonschema.ValidationError):
        validator(stream).validate(published(stream) | wrong)


def test_files_are_up_to_date_and_compatible():
    assert command.faults(CHECKED_IN) == []


def test_nothing_is_released_yet():
    assert [path.name for path in (CHECKED_IN / "releases").iterdir()] == ["README.md"]


def test_check_fails_on_a_change_and_write_repairs_it(tmp_path, capsys):
    assert command.main(["--check", str(tmp_path)]) == 1
    assert command.main(["--write", str(tmp_path)]) == 0
    assert command.main(["--check", str(tmp_path)]) == 0
    changed = tmp_path / "flows.schema.json"
    changed.write_text(changed.read_text().replace('"maximum": 255', '"maximum": 254', 1))
    capsys.readouterr()
    assert command.main(["--check", str(tmp_path)]) == 1
    assert str(changed) in capsys.readouterr().err


def test_check_fails_on_what_breaks_a_release(tmp_path, capsys):
    assert command.main(["--write", str(tmp_path)]) == 0
    assert command.main(["--release", str(tmp_path)]) == 0
    (tmp_path / "releases" / "README.md").write_text("not a release")
    assert command.main(["--check", str(tmp_path)]) == 0
    kept = {path.name for path in (tmp_path / "releases" / __version__).iterdir()}
    assert kept == set(schemas.files(schemas.VALUE_FORMATS))
    released = tmp_path / "releases" / __version__ / "flows.proto"
    released.write_text(released.read_text().replace("packets = 10;", "packets = 8;"))
    capsys.readouterr()
    assert command.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"not compatible with release {__version__}: flows.proto: "
        "FlowMessage.packets was renumbered from 8 to 10\n"
    )


@pytest.mark.parametrize("name", schemas.FORMATS)
@pytest.mark.parametrize("stream", Stream)
def test_the_command_prints_what_is_checked_in(name, stream, capsys):
    if (name, stream) == ("layout", Stream.COUNTERS):
        assert main(["schema", name, "--topic", stream]) == 2
        assert "counters have no fixed layout" in capsys.readouterr().err
        return
    assert main(["schema", name, "--topic", stream]) == 0
    printed = capsys.readouterr().out
    one_for_both = name in ("avro", "protobuf", "layout") and stream is Stream.NEW_FLOWS
    topic = Stream.FLOWS if one_for_both else stream
    endings = {
        "json": "schema.json",
        "avro": "avsc",
        "protobuf": "proto",
        "layout": "layout.json",
        "polars": "polars.py",
    }
    file = CHECKED_IN / f"{topic}.{endings.get(name, f'{name}.sql')}"
    assert printed == file.read_text()


def test_flows_are_what_the_command_prints_by_default(capsys):
    assert main(["schema", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "flowstream flows"


def test_a_record_is_read_by_its_layout():
    """As a program does that knows nothing else."""
    layout = json.loads(schemas.text("layout", Stream.FLOWS))
    records = random_flows(1)
    stamp(records, IDENTITY, 127)
    (value,) = make_encoder("msgpack", IDENTITY).encode(records)
    assert len(value) == layout["octets"]
    record = decode(value)
    assert [field["name"] for field in layout["fields"]] == list(record.__struct_fields__)
    for field in layout["fields"]:
        octets = value[field["offset"] :][: field["octets"]]
        expected = getattr(record, field["name"])
        if field["type"] == "text":
            assert octets.rstrip(b"\0").decode() == expected
        elif field["type"] == "octets":
            assert octets == expected
        else:
            assert field["type"] == f"u{8 * field['octets']}"
            assert int.from_bytes(octets) == expected


TABLES = [name for name in schemas.FORMATS if name not in schemas.VALUE_FORMATS]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("stream", Stream)
def test_tables_have_every_property_in_its_order(name, stream):
    """That the engines take them is for the engines to say; see examples/."""
    text = schemas.text(name, stream)
    assert re.search(rf"flowstream[._]{stream}\b", text)
    columns = re.findall(r"""^ +(?:\{"name": )?[`'"](\w+)[`'"]""", text, re.MULTILINE)
    expected = list(json_schema.document(stream)["properties"])
    assert [name for name in columns if name in expected][: len(expected)] == expected


@pytest.mark.parametrize("name", [name for name in TABLES if name != "polars"])
@pytest.mark.parametrize("stream", Stream)
def test_semicolons_only_end_statements(name, stream):
    """Many programs cut statements at every semicolon, those of comments too."""
    text = schemas.text(name, stream)
    assert ";" in text
    comments_and_literals = re.findall(r"--[^\n]*|'(?:[^']|'')*'", text)
    assert [each for each in comments_and_literals if ";" in each] == []
    assert all(line.endswith(";") for line in text.splitlines() if ";" in line)


@pytest.mark.parametrize("name", ["flink", "flink-avro"])
@pytest.mark.parametrize("stream", Stream)
def test_flink_waits_for_what_an_agent_may_still_deliver(name, stream):
    """docs/consumers.md: the interval and 40 seconds."""
    text = schemas.text(name, stream)
    wait_s = int(PublishConfig().interval_s) + 40
    assert f"WATERMARK FOR `event_time` AS `event_time` - INTERVAL '{wait_s}' SECOND" in text
    assert "'scan.watermark.idle-timeout' = '10 s'" in text
    (head, _) = text.split("CREATE TABLE")
    assert "`bytes`" in head


@pytest.mark.parametrize("name", ["clickhouse", "clickhouse-protobuf", "spark", "spark-avro"])
@pytest.mark.parametrize(
    ("stream", "record_type"), [(Stream.FLOWS, 1), (Stream.NEW_FLOWS, 2), (Stream.COUNTERS, 3)]
)
def test_tables_take_records_of_their_type_and_version_only(name, stream, record_type):
    text = schemas.text(name, stream)
    if name.startswith("clickhouse"):
        assert f"WHERE throwIf(\n    record_type != {record_type} OR schema_version != 1," in text
        return
    assert f"WHEN record.record_type = {record_type} AND record.schema_version = 1\n" in text
    # The two are compared, so they are not null either.
    required = json_schema.document(stream)["required"]
    assert re.findall(r"AND record\.(\w+) IS NOT NULL", text) == required[2:]
