"""Protobuf values, read by Protobuf's own library; importing this needs the extra ``readers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as WireError

from flowstream.layouts.constants import RecordType
from flowstream.records.counters import CountersRecord
from flowstream.records.describe import fields, protobuf_fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord
from flowstream.records.json_form import flow_form
from flowstream.records.protobuf_schema import MESSAGES, PACKAGE, scalar_type
from flowstream.records.text import ETYPE_IPV4, V4_MAPPED

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from msgspec import Struct

    from flowstream.records.describe import Field

_FieldProto = descriptor_pb2.FieldDescriptorProto
_IPV4_OCTETS: Final = 4


def read(value: bytes) -> FlowRecord | CountersRecord:
    """Read one message without length and prefix; ValueError when it is not a record.

    Zeros and empty texts are left out on the wire. Addresses never are: a message
    without them was cut.
    """
    flow = _parsed(FlowRecord, value)
    if flow.record_type not in list(RecordType):
        raise ValueError(f"unknown record type {flow.record_type}")
    if flow.record_type == RecordType.COUNTERS:
        counters = _parsed(CountersRecord, value)
        return msgspec.convert(_values(counters, CountersRecord), CountersRecord)
    return msgspec.convert(_values(flow, FlowRecord), FlowRecord)


def write(record: FlowRecord | CountersRecord, host: str, community_id: str) -> bytes:
    """Message of ``record``, without length and prefix."""
    message: Any = _CLASSES[type(record)]()
    named = flow_form(record, host, community_id) if isinstance(record, FlowRecord) else record
    for field in protobuf_fields(type(record)):
        # Bytes stand in the record, host and interfaces in its named form.
        value = getattr(record, field.name, None)
        value = getattr(named, field.name, None) if value is None else value
        if field.name == "sequence_num":
            value = getattr(record, "seq") & 0xFFFF_FFFF  # noqa: B009 - only flows have both
        _set(message, field, value, getattr(record, "etype", ETYPE_IPV4))
    octets: bytes = message.SerializeToString(deterministic=True)
    return octets


def _set(message: Any, field: Field, value: Any, etype: int) -> None:
    if field.kind is Kind.PART:
        part = getattr(message, field.name)
        # There also where all of it is 0, as the agent writes it.
        part.SetInParent()
        _fill(part, value)
        return
    if field.kind is Kind.MAP:
        entries = getattr(message, field.name)
        for key, each in value.items():
            _fill(entries[key], each)
        return
    if field.kind is Kind.MAC:
        value = int.from_bytes(value)
    elif (
        field.kind is Kind.ADDRESS
        and value.startswith(V4_MAPPED)
        # The agent's own address belongs to no packet.
        and (field.name == "sampler_address" or etype == ETYPE_IPV4)
    ):
        value = value[len(V4_MAPPED) :]
    setattr(message, field.name, value)


def _fill(message: Any, part: Struct) -> None:
    for name in part.__struct_fields__:
        setattr(message, name, getattr(part, name))


def extras(value: bytes) -> tuple[str, str]:
    """Host and Community ID of a flow record's message, which ``read`` has accepted."""
    flow = _parsed(FlowRecord, value)
    return flow.host, flow.community_id


def _parsed(record: type[Struct], value: bytes) -> Any:
    try:
        return _CLASSES[record].FromString(value)
    except WireError as err:
        raise ValueError(str(err)) from err


def _values(message: Message, record: type[Struct]) -> list[Any]:
    return [_value(field, message) for field in fields(record)]


def _value(field: Field, message: Message) -> Any:
    value = getattr(message, field.name)
    if field.record is not None:
        part = field.record
        if field.kind is Kind.PART:
            return _part(value, part)
        return {key: _part(entry, part) for key, entry in value.items()}
    match field.kind:
        case Kind.MAC:
            if value >> 48:
                raise ValueError(f"{field.name}: more than 48 bits")
            return value.to_bytes(6)
        case Kind.ADDRESS if len(value) == _IPV4_OCTETS:
            return V4_MAPPED + value
        case _:
            return value


def _part(message: Message, part: type[Struct]) -> dict[str, Any]:
    return dict(zip(part.__struct_fields__, _values(message, part), strict=True))


def _classes() -> dict[type[Struct], type[Message]]:
    """Make the classes of the definitions that ``flowstream schema protobuf`` prints."""
    file = descriptor_pb2.FileDescriptorProto(
        name="flowstream.proto", package=PACKAGE, syntax="proto3"
    )
    parts = {field.record for record in MESSAGES for field in fields(record) if field.record}
    for part in parts:
        _describe(file.message_type.add(name=part.__name__), part)
    for record, name in MESSAGES.items():
        _describe(file.message_type.add(name=name), record)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        record: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for record, name in MESSAGES.items()
    }


def _describe(message: descriptor_pb2.DescriptorProto, record: type[Struct]) -> None:
    for field in protobuf_fields(record):
        described = message.field.add(
            name=field.name, number=field.number, label=_FieldProto.LABEL_OPTIONAL
        )
        if field.record is None:
            described.type = _FieldProto.Type.Value(f"TYPE_{scalar_type(field).upper()}")
            continue
        described.type = _FieldProto.TYPE_MESSAGE
        if field.kind is Kind.PART:
            described.type_name = f".{PACKAGE}.{field.record.__name__}"
            continue
        # On the wire a map is a list of entries with a key and a value.
        camel = "".join(word.title() for word in field.name.split("_"))
        entry = message.nested_type.add(name=f"{camel}Entry")
        entry.options.map_entry = True
        entry.field.add(
            name="key",
            number=1,
            label=_FieldProto.LABEL_OPTIONAL,
            type=_FieldProto.TYPE_STRING,
        )
        entry.field.add(
            name="value",
            number=2,
            label=_FieldProto.LABEL_OPTIONAL,
            type=_FieldProto.TYPE_MESSAGE,
            type_name=f".{PACKAGE}.{field.record.__name__}",
        )
        described.label = _FieldProto.LABEL_REPEATED
        described.type_name = f".{PACKAGE}.{message.name}.{entry.name}"


_CLASSES: Final = _classes()
