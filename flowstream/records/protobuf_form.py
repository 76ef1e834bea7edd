"""Protobuf values, read by protobuf's own library; importing this needs the extra ``readers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as WireError

from flowstream.records.counters import CountersRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord, RecordType
from flowstream.records.protobuf_schema import MESSAGES, PACKAGE, scalar_type

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from msgspec import Struct

    from flowstream.records.describe import Field

_FieldProto = descriptor_pb2.FieldDescriptorProto


def read(value: bytes) -> FlowRecord | CountersRecord:
    """Read one message without a frame; ValueError when it is no record.

    Zeros and empty texts are not there, but parts are, and addresses: without
    them a message was cut.
    """
    flow = _parsed(FlowRecord, value)
    if flow.record_type not in list(RecordType):
        raise ValueError(f"unknown record type {flow.record_type}")
    if flow.record_type == RecordType.COUNTERS:
        counters = _parsed(CountersRecord, value)
        return msgspec.convert(_values(counters, CountersRecord), CountersRecord)
    return msgspec.convert(_values(flow, FlowRecord), FlowRecord)


def _parsed(record: type[Struct], value: bytes) -> Any:
    try:
        return _CLASSES[record].FromString(value)
    except WireError as err:
        raise ValueError(str(err)) from err


def _values(message: Message, record: type[Struct]) -> list[Any]:
    return [_value(field, message) for field in fields(record)]


def _value(field: Field, message: Message) -> Any:
    value = getattr(message, field.name)
    if field.kind is Kind.MAC:
        if value >> 48:
            raise ValueError(f"{field.name}: more than 48 bits")
        return value.to_bytes(6)
    if field.record is None:
        return value
    part = field.record
    if field.kind is Kind.MAP:
        return {key: _part(entry, part) for key, entry in value.items()}
    if not message.HasField(field.name):
        raise ValueError(f"{field.name}: not there")
    return _part(value, part)


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
    for field in fields(record):
        described = message.field.add(
            name=field.name, number=field.number, label=_FieldProto.LABEL_OPTIONAL
        )
        if field.record is None:
            described.type = _FieldProto.Type.Value(f"TYPE_{scalar_type(field).upper()}")
            continue
        described.type = _FieldProto.TYPE_MESSAGE
        described.type_name = f".{PACKAGE}.{field.record.__name__}"
        if field.kind is Kind.MAP:
            # On the wire a map is a list of entries with a key and a value.
            entry = message.nested_type.add(name=f"{field.name.title()}Entry")
            entry.options.map_entry = True
            entry.field.add(
                name="key",
                number=1,
                label=_FieldProto.LABEL_OPTIONAL,
                type=_FieldProto.TYPE_STRING,
            )
            value = entry.field.add(name="value", number=2)
            value.CopyFrom(described)
            value.name, value.number = "value", 2
            described.label = _FieldProto.LABEL_REPEATED
            described.type_name = f".{PACKAGE}.{message.name}.{entry.name}"


_CLASSES: Final = _classes()
