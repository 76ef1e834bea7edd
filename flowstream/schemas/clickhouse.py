"""ClickHouse: a queue on the topic's JSON, a table, and the view that moves one into the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.records import SCHEMA_VERSION
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.schemas.topics import PREFIX, RECORD_TYPES, json_fields, sql_comment
from flowstream.streams import Stream

if TYPE_CHECKING:
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
_TIMES: Final = (
    "time_received_ns",
    "time_flow_start_ns",
    "time_flow_end_ns",
    "time_unix_ns",
)
_FEW_VALUES: Final = (
    *("host_id", "host", "if_name"),
    *("agent_version", "program_name", "attach_mode"),
)

_TEMPLATE: Final = """\
-- The topic's JSON. Insert your brokers. Reading stops at any other value:
-- system.kafka_consumers has the error, "flowstream audit" names the offset.
CREATE TABLE {name}_queue
(
{queue}
)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'localhost:9092',
         kafka_topic_list = '{topic}',
         kafka_group_name = 'flowstream-clickhouse',
         kafka_format = 'JSONEachRow',
         input_format_skip_unknown_fields = 1;

-- Duplicates become one row when parts are merged, or with FINAL.{shown}
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
_SHOWN: Final = r"""
-- IPv4 addresses are shown as ::ffff:10.0.0.1; as 10.0.0.1 by
-- replaceRegexpOne(toString(src_addr), '^::ffff:([0-9.]+)$', '\\1')."""


def definition(stream: Stream) -> str:
    """Return three statements; names are those of the topic with "_" for "."."""
    columns = json_fields(stream)
    return _TEMPLATE.format(
        name=f"{PREFIX}_{stream}",
        topic=f"{PREFIX}.{stream}",
        record_type=int(RECORD_TYPES[stream]),
        schema_version=SCHEMA_VERSION,
        shown=_SHOWN if any(each.kind is Kind.ADDRESS for each in columns) else "",
        time="time_unix_ns" if stream is Stream.COUNTERS else "time_received_ns",
        queue=",\n".join(f"    `{each.name}` {_queue_type(each)}" for each in columns),
        table=",\n".join(
            f"    `{each.name}` {_table_type(each)} COMMENT '{sql_comment(each)}'"
            for each in columns
        ),
        select=",\n".join(f"    {_moved(each)}" for each in columns),
    )


def _queue_type(field: Field) -> str:
    if field.record is None:
        return _TYPES[field.kind]
    part = ", ".join(f"`{each.name}` {_queue_type(each)}" for each in fields(field.record))
    return f"Tuple({part})" if field.kind is Kind.PART else f"Map(String, Tuple({part}))"


def _table_type(field: Field) -> str:
    if field.name in _TIMES:
        return "DateTime64(9, 'UTC')"
    if field.name in _FEW_VALUES:
        return "LowCardinality(String)"
    return "IPv6" if field.kind is Kind.ADDRESS else _queue_type(field)


def _moved(field: Field) -> str:
    if field.name in _TIMES:
        return f"fromUnixTimestamp64Nano(toInt64(`{field.name}`), 'UTC') AS `{field.name}`"
    if field.kind is Kind.ADDRESS:
        return f"toIPv6(`{field.name}`) AS `{field.name}`"
    return f"`{field.name}`"
