"""Spark SQL and Flink SQL definitions over a topic's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import NODEFAULT

from flowstream.records import SCHEMA_VERSION
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.schemas.topics import PREFIX, RECORD_TYPES, json_fields, sql_comment
from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.records.describe import Field

# Both have signed numbers only: each field has the next larger type. Values stay
# below 2^63, so BIGINT holds all of them.
_TYPES: Final = {
    Kind.U8: "SMALLINT",
    Kind.U16: "INT",
    Kind.U32: "BIGINT",
    Kind.U64: "BIGINT",
    Kind.ADDRESS: "STRING",
    Kind.HOST_ID: "STRING",
    Kind.MAC: "STRING",
    Kind.BOOL: "BOOLEAN",
    Kind.TEXT: "STRING",
}

_SPARK: Final = """\
-- Insert your brokers. For a stream, make {name}_topic from
-- spark.readStream.format("kafka"). Any other value is an error.
CREATE OR REPLACE TEMPORARY VIEW {name}_topic
USING kafka
OPTIONS (
  'kafka.bootstrap.servers' 'localhost:9092',
  'subscribe' '{topic}',
  'startingOffsets' 'earliest'
);

CREATE OR REPLACE TEMPORARY VIEW {name} AS
SELECT record.*, timestamp_micros(record.{time} DIV 1000) AS event_time, partition, offset
FROM (
  SELECT partition, offset, CASE
    WHEN record.record_type = {record_type} AND record.schema_version = {schema_version}
{present}
    THEN record
    ELSE raise_error(format_string(
      '%s, partition %d, offset %d: not a JSON record of schema version {schema_version}',
      topic, partition, offset))
    END AS record
  FROM (
    SELECT topic, partition, offset, from_json(CAST(value AS STRING), '
{columns}
    ') AS record
    FROM {name}_topic
  )
);
"""

_FLINK: Final = """\
-- Insert your brokers. The record of a lasting flow comes at the end of its
-- interval: the watermark waits for intervals of up to 30 seconds.
CREATE TABLE {name} (
{columns},
  `event_time` AS TO_TIMESTAMP_LTZ(`{time}` / 1000000, 3),
  WATERMARK FOR `event_time` AS `event_time` - INTERVAL '30' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = '{topic}',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'flowstream-flink',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json'
);
"""


def spark(stream: Stream) -> str:
    """Return two views: the topic, and its records with ``event_time`` and their place."""
    columns = json_fields(stream)
    required = [each.name for each in columns if each.default is NODEFAULT]
    return _SPARK.format(
        **_names(stream),
        record_type=int(RECORD_TYPES[stream]),
        schema_version=SCHEMA_VERSION,
        present="\n".join(f"      AND record.{name} IS NOT NULL" for name in required[2:]),
        columns=",\n".join(f"      {_column(each, ': ')}" for each in columns),
    )


def flink(stream: Stream) -> str:
    """Return one table, with ``event_time`` and a watermark."""
    columns = ",\n".join(
        f"  {_column(each, ' ')} COMMENT '{sql_comment(each)}'" for each in json_fields(stream)
    )
    return _FLINK.format(**_names(stream), columns=columns)


def _names(stream: Stream) -> dict[str, str]:
    return {
        "name": f"{PREFIX}_{stream}",
        "topic": f"{PREFIX}.{stream}",
        "time": "time_unix_ns" if stream is Stream.COUNTERS else "time_flow_end_ns",
    }


def _column(field: Field, separator: str) -> str:
    """Column of a table; ``separator`` tells a name from its type inside of parts."""
    return f"`{field.name}` {_type(field, separator)}"


def _type(field: Field, separator: str) -> str:
    if field.record is None:
        return _TYPES[field.kind]
    part = ", ".join(
        f"`{each.name}`{separator}{_type(each, separator)}" for each in fields(field.record)
    )
    composite = f"{'STRUCT' if separator == ': ' else 'ROW'}<{part}>"
    return composite if field.kind is Kind.PART else f"MAP<STRING, {composite}>"
