"""The JSON Schemas: what is published fits them, and the files are what the Structs give."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from support.records import COUNTERS, random_flows

from flowstream import schemas
from flowstream.batch import Stream
from flowstream.encode import Identity, make_encoder, stamp

IDENTITY = Identity(1_700_000_000_000_000_003, bytes(range(16)), "host-a", {3: "eth0"})
CHECKED_IN = Path(__file__).parent.parent / "schemas"


def validator(stream: Stream) -> jsonschema.Draft202012Validator:
    document = schemas.documents()[stream]
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(
        document, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def published(stream: Stream) -> dict[str, object]:
    encoder = make_encoder("json", IDENTITY)
    if stream is Stream.COUNTERS:
        return json.loads(encoder.encode_counters(COUNTERS))
    records = random_flows(1)
    records["record_type"] = 1 if stream is Stream.FLOWS else 2
    stamp(records, IDENTITY, 2**64 - 1)
    (value,) = encoder.encode(records)
    return json.loads(value)


@pytest.mark.parametrize("stream", Stream)
def test_published_value_fits_its_schema(stream):
    value = published(stream)
    validator(stream).validate(value)
    assert list(value) == list(schemas.documents()[stream]["properties"])


@pytest.mark.parametrize("stream", Stream)
def test_every_property_is_required_and_described(stream):
    document = schemas.documents()[stream]
    assert document["required"] == list(document["properties"])
    assert all(property_.get("description") for property_ in document["properties"].values())


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
        (Stream.FLOWS, {"packets": 2**64}),
        (Stream.FLOWS, {"packets": "1"}),
        (Stream.FLOWS, {"proto": 256}),
        (Stream.COUNTERS, {"xdp_mode": "auto"}),
        (Stream.COUNTERS, {"losses": {"overflow_lost": {"records": 1}}}),
    ],
)
def test_other_values_do_not_fit(stream, wrong):
    with pytest.raises(jsonschema.ValidationError):
        validator(stream).validate(published(stream) | wrong)


def test_files_are_up_to_date():
    assert schemas.outdated(CHECKED_IN) == []


def test_check_fails_on_a_change_and_write_repairs_it(tmp_path, capsys):
    assert schemas.main(["--check", str(tmp_path)]) == 1
    assert schemas.main(["--write", str(tmp_path)]) == 0
    assert schemas.main(["--check", str(tmp_path)]) == 0
    changed = tmp_path / "flows.schema.json"
    changed.write_text(changed.read_text().replace('"maximum": 255', '"maximum": 254', 1))
    capsys.readouterr()
    assert schemas.main(["--check", str(tmp_path)]) == 1
    assert str(changed) in capsys.readouterr().err
