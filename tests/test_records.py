"""Decoding what is published: golden bytes by field, and everything that is no record."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.columns import any_columns
from support.records import COUNTERS, FIELDS, flow_records, random_flows

from flowstream.encode import Identity, make_encoder
from flowstream.encode.value_builder import varint
from flowstream.errors import DecodeError
from flowstream.records import CountersRecord, FlowRecord, RecordType, decode, decode_many

JSON = make_encoder("json", Identity(0, bytes(16), "host-a"))
MSGPACK = make_encoder("msgpack", Identity(0, bytes(16), "host-a"))

FLOW = random_flows(1)
PROTOBUF = make_encoder("protobuf", Identity(0, bytes(16), "host-a"))
AVRO = make_encoder("avro", Identity(0, bytes(16), "host-a"))
VALUES = {
    "msgpack flow": MSGPACK.encode(FLOW)[0],
    "json flow": JSON.encode(FLOW)[0],
    "msgpack counters": MSGPACK.encode_counters(COUNTERS),
    "json counters": JSON.encode_counters(COUNTERS),
}
BINARY_VALUES = {
    "protobuf flow": PROTOBUF.encode(FLOW)[0],
    "avro flow": AVRO.encode(FLOW)[0],
    "protobuf counters": PROTOBUF.encode_counters(COUNTERS),
    "avro counters": AVRO.encode_counters(COUNTERS),
}
ALL_VALUES = VALUES | BINARY_VALUES
FLOW_OBJECT = json.loads(VALUES["json flow"])
every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


def make(flow: np.ndarray, record_format: str, *, community_id: bool) -> bytes:
    identity = Identity(0, bytes(16), "host-a")
    return make_encoder(record_format, identity, community_id=community_id).encode(flow)[0]


ADDRESS = "20010db8000000000000000000000001"
MAPPED = "00000000000000000000ffff0a000001"

# field, value set, offset of its tag, bytes from there on, value decoded
GOLDEN = [
    ("record_type", 2, 3, "cc02", 2),
    ("schema_version", 1, 5, "cc01", 1),
    ("agent_epoch", 0x0102030405060708, 7, "cf0102030405060708", 0x0102030405060708),
    ("host_id", ADDRESS, 16, f"c410{ADDRESS}", bytes.fromhex(ADDRESS)),
    ("seq", 2**64 - 1, 34, "cfffffffffffffffff", 2**64 - 1),
    ("time_received_ns", 3, 43, "cf0000000000000003", 3),
    ("time_flow_start_ns", 5, 52, "cf0000000000000005", 5),
    ("time_flow_end_ns", 7, 61, "cf0000000000000007", 7),
    ("etype", 0x86DD, 70, "cd86dd", 0x86DD),
    ("proto", 132, 73, "cc84", 132),
    ("src_addr", MAPPED, 75, f"c410{MAPPED}", bytes.fromhex(MAPPED)),
    ("dst_addr", ADDRESS, 93, f"c410{ADDRESS}", bytes.fromhex(ADDRESS)),
    ("src_port", 0x0102, 111, "cd0102", 0x0102),
    ("dst_port", 0xFFFE, 114, "cdfffe", 0xFFFE),
    ("icmp_type", 8, 117, "cc08", 8),
    ("icmp_code", 13, 119, "cc0d", 13),
    ("tcp_flags", 0xFF, 121, "ccff", 0xFF),
    ("ip_tos", 0xB8, 123, "ccb8", 0xB8),
    ("ip_ttl", 61, 125, "cc3d", 61),
    ("vlan_id", 4_093, 127, "cd0ffd", 4_093),
    ("in_if", 0x01020304, 130, "ce01020304", 0x01020304),
    ("in_if_name", b"eth0".hex() + 11 * "00", 135, "af65746830" + 11 * "00", "eth0"),
    ("src_mac", "0200000000fe", 151, "c4060200000000fe", bytes.fromhex("0200000000fe")),
    ("dst_mac", "ffffffffffff", 159, "c406ffffffffffff", b"\xff" * 6),
    ("packets", 1_009, 167, "cf00000000000003f1", 1_009),
    ("bytes", 2**63, 176, "cf8000000000000000", 2**63),
    ("l2_bytes", 2**32, 185, "cf0000000100000000", 2**32),
    ("sampling_rate", 2**32 - 1, 194, "ceffffffff", 2**32 - 1),
    ("end_reason", 4, 199, "cc04", 4),
    ("flow_direction", 1, 201, "cc01", 1),
]


def test_golden_rows_cover_every_field_in_order():
    assert [row[0] for row in GOLDEN] == FIELDS
    # User space adds the last one, where it is asked for.
    assert [*FIELDS, "community_id"] == list(FlowRecord.__struct_fields__)


@pytest.mark.parametrize(("field", "value", "offset", "wire", "decoded"), GOLDEN)
def test_golden_bytes(field, value, offset, wire, decoded):
    column = np.frombuffer(bytes.fromhex(value), np.uint8) if isinstance(value, str) else value
    records = flow_records(1, **{field: column})
    (encoded,) = MSGPACK.encode(records)
    expected = bytes.fromhex(wire)
    assert encoded[offset : offset + len(expected)] == expected
    assert len(encoded) == 203
    assert getattr(decode(encoded), field) == decoded
    assert getattr(decode(JSON.encode(records)[0]), field) == decoded


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (MAPPED, "10.0.0.1"),
        (ADDRESS, "2001:db8::1"),
        ("00" * 16, "::"),
        ("00" * 10 + "ff" * 6, "255.255.255.255"),
        ("fe80" + "00" * 12 + "0101", "fe80::101"),
    ],
)
def test_addresses_and_macs_as_text(wire, text):
    address = np.frombuffer(bytes.fromhex(wire), np.uint8)
    mac = [2, 0, 0, 0, 0, 0xFE]
    records = flow_records(1, src_addr=address, dst_addr=address, src_mac=mac, dst_mac=mac)
    record = decode(MSGPACK.encode(records)[0])
    assert record.source == record.destination == ip_address(text)
    assert record.source_mac == record.destination_mac == "02:00:00:00:00:fe"
    written = json.loads(JSON.encode(records)[0])
    assert written["src_addr"] == written["dst_addr"] == text
    assert written["src_mac"] == written["dst_mac"] == "02:00:00:00:00:fe"


def test_new_flow():
    flow, announcement = decode_many(MSGPACK.encode(flow_records(2, record_type=[1, 2])))
    assert not flow.is_new_flow
    assert announcement.is_new_flow


def test_records_are_values():
    one, same, other = decode_many(MSGPACK.encode(flow_records(3, seq=[3, 3, 5])))
    assert {one, same, other} == {one, other}
    with pytest.raises(AttributeError):
        one.seq = 7


@pytest.mark.parametrize("encoder", [JSON, MSGPACK, PROTOBUF, AVRO])
def test_counters_round_trip(encoder):
    assert decode(encoder.encode_counters(COUNTERS)) == COUNTERS


def test_counters_start_as_a_consumer_expects():
    assert VALUES["msgpack counters"].startswith(b"\xdc\x00\x1e\x03")
    assert VALUES["json counters"].startswith(b'{"record_type":3,"schema_version":1,')
    assert json.loads(VALUES["json counters"])["host_id"] == bytes(range(16)).hex()


@every_value
def test_cut_at_every_byte(value):
    for length in range(len(value)):
        with pytest.raises(DecodeError):
            decode(value[:length])


@every_value
@pytest.mark.parametrize("garbage", [b"\0", b"{", b"\xc0"])
def test_trailing_garbage(value, garbage):
    with pytest.raises(DecodeError, match="trailing"):
        decode(value + garbage)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"\x00\x00\x00\x00\x01rest", "schema registry"),
        (b"\x00\x00\x00\x00\x01", "schema registry"),
        (b"\x00\x00\x00\x00\x01\x00", "unknown record type 0"),
        (b"\x00\x00\x00\x00\x01\x02", "Avro that cannot be read"),
        (b"\x18\x01", "unknown record type 0"),
        (b"\xff", "neither JSON, MessagePack, Protobuf nor Avro .first octet 0xff"),
        (b" {}", "neither"),
        (b"\xdd\x00\x00\x00\x00", "neither"),
        (b'{"record_type":4}', "unknown record type 4"),
        (b'{"record_type":0}', "unknown record type 0"),
        (b"\xdc\x00\x01\x04", "unknown record type 4"),
        (b"{}", "record_type"),
        (b"\xdc\x00\x00", "length"),
        (b"\xdc\x00\x01\x01", "at least length 30"),
        (b"\xdc\x00\x01\x03", "at least length 30"),
        (b'{"record_type":1}', "schema_version"),
    ],
)
def test_what_is_no_record(value, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(value)


BOMBS = {
    "json arrays": b'{"record_type":1,"x":' + b"[" * 100_003,
    "json objects": b'{"record_type":3,"x":' + b'{"x":' * 100_003,
    "msgpack instead of a field": b"\xdc\xff\xff\xcc\x01" + b"\x91" * 100_003,
    "msgpack after the fields": b"\xdc\x00\x1f" + VALUES["msgpack flow"][3:] + b"\x91" * 100_003,
    "4 GB of text": b"\xdc\x00\x1f" + VALUES["msgpack flow"][3:] + b"\xdb\xff\xff\xff\xff",
    "4 G elements": b"\xdc\x00\x1f" + VALUES["msgpack flow"][3:] + b"\xdd\xff\xff\xff\xff",
    "4 G pairs": b"\xdc\x00\x1f" + VALUES["msgpack flow"][3:] + b"\xdf\xff\xff\xff\xff",
    "4 GB host_id": VALUES["msgpack flow"].replace(b"\xc4\x10", b"\xc6\xff\xff\xff\xff", 1),
    "long integer": b'{"record_type":' + b"1" * 100_003 + b"}",
}


@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS)
def test_bombs(value):
    with pytest.raises(DecodeError):
        decode(value)


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "record_type"])
def test_wrong_type_in_every_field(field):
    fields = list(msgspec.msgpack.decode(VALUES["msgpack flow"]))
    for wrong in ([], None, 1.5, -1, b"x" * 17):
        fields[FIELDS.index(field)] = wrong
        with pytest.raises(DecodeError, match=rf"\[{FIELDS.index(field)}\]"):
            decode(msgspec.msgpack.encode(fields))
        with pytest.raises(DecodeError):
            decode(json.dumps(FLOW_OBJECT | {field: [wrong and str(wrong)]}).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema_version": 0},
        {"schema_version": -1},
        {"proto": 256},
        {"src_port": 65_536},
        {"packets": 2**64},
        {"packets": -1},
        {"packets": True},
        {"src_addr": ""},
        {"src_addr": "10.0.0.256"},
        {"src_addr": "10.0.0.1/8"},
        {"src_addr": "2001:db8:::1"},
        {"src_addr": "10.0.0.1\0"},
        {"dst_addr": "é"},
        {"src_mac": "02:00:00:00:00"},
        {"src_mac": "020000000001"},
        {"dst_mac": "02:00:00:00:00:0g"},
        {"host_id": "00"},
        {"host_id": " " * 32},
        {"host_id": "00 " * 16},
    ],
    ids=str,
)
def test_wrong_values_in_json(wrong):
    with pytest.raises(DecodeError):
        decode(json.dumps(FLOW_OBJECT | wrong).encode())


@pytest.mark.parametrize("wrong", [{"xdp_mode": "auto"}, {"rx_packets": 2**64}, {"losses": []}])
def test_wrong_values_in_json_counters(wrong):
    with pytest.raises(DecodeError):
        decode(json.dumps(json.loads(VALUES["json counters"]) | wrong).encode())


@pytest.mark.parametrize("name", ["msgpack flow", "msgpack counters"])
def test_fields_that_were_added_are_ignored(name):
    fields = msgspec.msgpack.decode(VALUES[name])
    if name == "msgpack flow":
        fields.append("")
    newer = decode(msgspec.msgpack.encode([*fields, "added", [1, {"a": b"b"}]]))
    assert newer == decode(VALUES[name])


@pytest.mark.parametrize("name", ["json flow", "json counters"])
def test_properties_that_were_added_are_ignored(name):
    newer = decode(json.dumps(json.loads(VALUES[name]) | {"x": [1]}).encode())
    assert newer == decode(VALUES[name])


@pytest.mark.parametrize("name", BINARY_VALUES)
def test_binary_fields_that_were_added_are_ignored(name):
    # A field of number 2000 and one octet; a string at the end of the record.
    added = b"\x82\x7d\x01x" if name.startswith("protobuf") else b"\x02x"
    assert decode(BINARY_VALUES[name] + added) == decode(BINARY_VALUES[name])


@pytest.mark.parametrize("name", ALL_VALUES)
@pytest.mark.parametrize("change", [{}, {"packets": "?", "rx_packets": "?"}])
def test_unknown_schema_version_is_named_whatever_else_it_has(name, change):
    value = ALL_VALUES[name]
    if name.startswith("json"):
        value = json.dumps(json.loads(value) | {"schema_version": 2} | change).encode()
    elif name.startswith("msgpack"):
        fields = msgspec.msgpack.decode(value)
        value = msgspec.msgpack.encode([fields[0], 2, *(fields[2:] if not change else ["?"] * 40)])
    elif name.startswith("avro"):
        value = value[:1] + b"\x04" + value[2:]
    else:  # the last one counts
        value += b"\xc8\x3e\x02"
    with pytest.raises(
        DecodeError,
        match=r"^not a record: schema version 2, and this flowstream knows 1; upgrade it$",
    ):
        decode(value)


@given(columns=any_columns(), community_id=st.booleans())
def test_binary_formats_decode_to_the_same_record(columns, community_id):
    flow = flow_records(1, **columns)
    expected = decode(make(flow, "msgpack", community_id=community_id))
    assert decode(make(flow, "protobuf", community_id=community_id)) == expected
    assert decode(make(flow, "avro", community_id=community_id)) == expected
    for record_format, frame in (("protobuf", b"\0\0\0\1\2\0"), ("avro", b"\0\0\0\1\2")):
        assert decode(frame + make(flow, record_format, community_id=community_id)) == expected


@pytest.mark.parametrize("name", BINARY_VALUES)
def test_binary_values_that_are_cut(name):
    value = BINARY_VALUES[name]
    for length in range(len(value)):
        try:
            record = decode(value[:length])
        except DecodeError:
            continue
        # Protobuf leaves zeros out: the end of counters may be nothing but such.
        assert (name, record.final) == ("protobuf counters", False)
        # Of what is always there, new_flows is the last.
        assert length > value.index(varint(1118 << 3 | 2))


@pytest.mark.parametrize(
    ("record_format", "library"), [("protobuf", "google"), ("avro", "fastavro")]
)
def test_without_its_library_a_format_is_named_with_the_remedy(record_format, library):
    program = (
        f"import sys; sys.modules[{library!r}] = None; from flowstream.records import decode; "
        f"decode({BINARY_VALUES[f'{record_format} flow']!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    remedy = f"not a record: {record_format}, which needs: pip install 'flowstream[readers]'"
    assert f"DecodeError: {remedy}" in done.stderr


def test_decode_many_is_decode_of_each():
    flows = MSGPACK.encode(random_flows(13))
    assert decode_many(iter(flows)) == [decode(value) for value in flows]
    mixed = [*flows, *ALL_VALUES.values()]
    assert decode_many(mixed) == [decode(value) for value in mixed]
    assert decode_many([]) == []


@pytest.mark.parametrize("bad", [b"", b"\0", VALUES["msgpack flow"][:-1], b"\xdd\0\0\0\x1e"])
def test_decode_many_names_the_bad_value(bad):
    with pytest.raises(DecodeError, match="value 5: not a record: "):
        decode_many([*MSGPACK.encode(random_flows(5)), bad, bad])


def test_decode_many_takes_only_what_decode_takes():
    array32 = b"\xdd\0\0\0\x1e" + VALUES["msgpack flow"][3:]
    with pytest.raises(DecodeError, match=r"value 1: .* neither"):
        decode_many([VALUES["msgpack flow"], array32])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_decode_error(tail):
    heads = (
        b"",
        b"\xdc",
        b"{",
        b"\xdc\x00\x1e\xcc\x01",
        b"\x02\x02",
        b"\x06\x02",
        b"\x18",
        b"\0\0\0\0\1\0",
    )
    for value in (head + tail for head in heads):
        try:
            assert isinstance(decode(value), FlowRecord | CountersRecord)
        except DecodeError:
            continue


@given(st.sampled_from(list(ALL_VALUES)), st.integers(0, 2_000), st.integers(0, 255))
def test_any_changed_byte_gives_a_record_or_a_decode_error(name, position, octet):
    value = bytearray(ALL_VALUES[name])
    value[position % len(value)] = octet
    try:
        assert decode(bytes(value)).record_type in list(RecordType)
    except DecodeError:
        return
