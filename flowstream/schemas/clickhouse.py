"""ClickHouse: a queue on the topic, a table, and the view that moves one into the other.

The topic's values are JSON or Protobuf, the tables the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.protobuf_schema import MESSAGES
from flowstream.schemas.topics import json_fields, names, record_of, sql_comment
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowstream.records.describe import Field

_TYPES: Final = {
    Kind.U8: "UInt8",
    Kind.U16: "UInt16",
    Kind.U32: "UInt32",
    Kind.U64: "UInt64",
    Kind.ADDRESS: "String",
    Kind.HOST_ID: "String",
    Kind.MAC: "String",
    Kind.BOOL: "Bool",
    Kind.TEXT: "String",
}
_PROTOBUF_TYPES: Final = _TYPES | {Kind.MAC: "UInt64"}
_TIMES: Final = (
    "time_received_ns",
    "time_flow_start_ns",
    "time_flow_end_ns",
    "time_unix_ns",
)
_FEW_VALUES: Final = (
    *("host_id", "host", "if_name", "netns"),
    *("agent_version", "program_name", "attach_mode"),
)

_TEMPLATE: Final = """\
-- The topic's {values}. Insert your brokers. Reading stops at any other value:
-- system.kafka_consumers has the error, "flowstream audit" names the offset.{head}
CREATE TABLE {name}_queue
(
{queue}
)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'localhost:9092',
         kafka_topic_list = '{topic}',
         kafka_group_name = 'flowstream-clickhouse',
{format};

-- Duplicates become one row when parts are merged, or with FINAL.
-- Addresses of IPv4 are ::ffff:10.0.0.1 there, and so is their toString.
-- As text, 10.0.0.1, they are {shown}.
CREATE TABLE {name}
(
{table}
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate({time})
ORDER BY ({time}, host_id, agent_epoch, seq);

CREATE MATERIALIZED VIEW {name}_view TO {name} AS
SELECT
{select}
FROM {name}_queue
WHERE throwIf(
    record_type != {record_type} OR schema_version != {schema_version},
    '{topic}: not a record of schema version {schema_version}') = 0;
"""
_JSON: Final = """\
         kafka_format = 'JSONEachRow',
         input_format_skip_unknown_fields = 1"""
_PROTOBUF: Final = """\
         kafka_format = 'Protobuf',
         kafka_schema = '{schema}'"""
_PROTOBUF_HEAD: Final = """
-- The server needs {file} in its format_schema_path, and values without a prefix of a
-- registry."""


def definition(stream: Stream) -> str:
    """Return three statements; names are those of the topic with "_" for "."."""
    return _definition(stream, _TYPES, _moved, values="JSON", format=_JSON, head="")


def protobuf_definition(stream: Stream) -> str:
    """Return the same for a topic of Protobuf values, each behind its length."""
    record = record_of(stream)
    # One definition serves both topics that carry flows.
    of_record = stream if stream is Stream.COUNTERS else Stream.FLOWS
    return _definition(
        stream,
        _PROTOBUF_TYPES,
        _moved_from_protobuf,
        values="Protobuf",
        format=_PROTOBUF.format(schema=f"{of_record}:{MESSAGES[record]}"),
        head=_PROTOBUF_HEAD.format(file=f"{of_record}.proto"),
    )


def _definition(
    stream: Stream, types: dict[Kind, str], moved: Callable[[Field], str], **texts: str
) -> str:
    columns = json_fields(stream)
    addresses = [each.name for each in columns if each.kind is Kind.ADDRESS]
    shown = [_text_name(name) for name in addresses]
    time = "time_unix_ns" if stream is Stream.COUNTERS else "time_received_ns"
    aliases = [f"    `{_text_name(name)}` String ALIAS {_as_text(name)}" for name in addresses]
    table = [
        f"    `{each.name}` {_table_type(each)} COMMENT '{sql_comment(each)}'" for each in columns
    ]
    return _TEMPLATE.format(
        **(names(stream) | {"time": time}),
        **texts,
        shown=f"{', '.join(shown[:-1])} and {shown[-1]}" if shown[1:] else shown[0],
        queue=",\n".join(f"    `{each.name}` {_queue_type(each, types)}" for each in columns),
        table=",\n".join([*table, *aliases]),
        select=",\n".join(f"    {moved(each)}" for each in columns),
    )


def _text_name(address: str) -> str:
    """``src_ip`` for ``src_addr``."""
    return f"{address.partition('_')[0]}_ip"


def _as_text(address: str) -> str:
    """Expression for an address as JSON has it; in IPv6 packets v4-mapped ones stay IPv6."""
    dotted = rf"replaceRegexpOne(toString(`{address}`), '^::ffff:([0-9.]+)$', '\\1')"
    if address == "sampler_address":
        return dotted
    return f"if(`etype` = 0x0800, {dotted}, toString(`{address}`))"


def _queue_type(field: Field, types: dict[Kind, str]) -> str:
    if field.record is None:
        return types[field.kind]
    part = ", ".join(f"`{each.name}` {types[each.kind]}" for each in fields(field.record))
    return f"Tuple({part})" if field.kind is Kind.PART else f"Map(String, Tuple({part}))"


def _table_type(field: Field) -> str:
    if field.name in _TIMES:
        return "DateTime64(9, 'UTC')"
    if field.name in _FEW_VALUES:
        return "LowCardinality(String)"
    return "IPv6" if field.kind is Kind.ADDRESS else _queue_type(field, _TYPES)


def _moved(field: Field) -> str:
    if field.name in _TIMES:
        return f"fromUnixTimestamp64Nano(toInt64(`{field.name}`), 'UTC') AS `{field.name}`"
    if field.kind is Kind.ADDRESS:
        return f"toIPv6(`{field.name}`) AS `{field.name}`"
    return f"`{field.name}`"


def _moved_from_protobuf(field: Field) -> str:
    name = f"`{field.name}`"
    match field.kind:
        case Kind.ADDRESS:
            # 4 octets are IPv4, which IPv6 has behind ::ffff:.
            mapped = f"concat(unhex('00000000000000000000ffff'), {name})"
            octets = f"if(length({name}) = 4, {mapped}, {name})"
            return f"toIPv6(IPv6NumToString(toFixedString({octets}, 16))) AS {name}"
        case Kind.MAC:
            return f"lower(MACNumToString({name})) AS {name}"
        case Kind.HOST_ID:
            return f"lower(hex({name})) AS {name}"
    return _moved(field)
