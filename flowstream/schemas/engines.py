"""Spark SQL and Flink SQL definitions over a topic's JSON or Avro."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from flowstream.records import avro_schema
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.schemas.topics import (
    json_fields,
    names,
    record_of,
    required,
    sql_comment,
)

if TYPE_CHECKING:
    from flowstream.records.describe import Field
    from flowstream.streams import Stream

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
-- Insert your brokers{inserted}. For a stream, make {name}_topic from
-- spark.readStream.format("kafka"). Any other value is an error.{head}
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
      '%s, partition %d, offset %d: not {a_format} record of schema version {schema_version}',
      topic, partition, offset))
    END AS record
  FROM (
    SELECT topic, partition, offset, {read} AS record
    FROM {name}_topic
  )
);
"""
_SPARK_JSON: Final = """\
from_json(CAST(value AS STRING), '
{columns}
    ')"""
# The schema stands here, since Spark asks no registry: what another schema has written must
# not be read by this one.
_SPARK_AVRO: Final = """\
IF(
      substring(value, 1, 5) = X'0000000001',
      from_avro(substring(value, 6), '
{schema}
      ', map('mode', 'PERMISSIVE')),
      NULL)"""
_SPARK_AVRO_HEAD: Final = """
-- X'0000000001' is what stands before each value: 0 and the schema's id in 4 octets,
-- of http://REGISTRY/subjects/{topic}-value/versions/latest. Needs
-- org.apache.spark:spark-avro_2.13 of Spark's version."""

# What an agent may still deliver comes up to an interval and 40 s after its packets.
_INTERVAL_S: Final = 5
_DELIVERY_S: Final = 40

_FLINK: Final = """\
-- Insert your brokers{inserted}. `bytes`, `offset` and `partition` are reserved words of Flink:
-- quote them. Records come up to --interval and 40 seconds after their packets: where the
-- interval is over 5 seconds, let the watermark wait longer. A partition that is empty for
-- 10 seconds no longer holds it back: the counters of a host fill one partition only.
CREATE TABLE {name} (
{columns},
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  `event_time` AS TO_TIMESTAMP_LTZ(`{time}` / 1000000, 3),
  WATERMARK FOR `event_time` AS `event_time` - INTERVAL '{wait_s}' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = '{topic}',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'flowstream-flink',
  'scan.startup.mode' = 'earliest-offset',
  'scan.watermark.idle-timeout' = '10 s',
{format}
);
"""
_FLINK_JSON: Final = "  'format' = 'json'"
_FLINK_AVRO: Final = """\
  'format' = 'avro-confluent',
  'avro-confluent.url' = 'http://localhost:8081'"""


def spark(stream: Stream) -> str:
    """Return two views: the topic, and its records with ``event_time`` and their place."""
    columns = ",\n".join(f"      {_column(each, ': ')}" for each in json_fields(stream))
    read = _SPARK_JSON.format(columns=columns)
    return _spark(stream, read, a_format="a JSON", inserted="", head="")


def spark_avro(stream: Stream) -> str:
    """Return the same views of a topic of Avro values."""
    schema = avro_schema.schema(record_of(stream))
    head = _SPARK_AVRO_HEAD.format(**names(stream))
    read = _SPARK_AVRO.format(schema=_without_docs(schema))
    return _spark(stream, read, a_format="an Avro", inserted=" and the schema's id", head=head)


def flink(stream: Stream) -> str:
    """Return one table, with ``event_time`` and a watermark."""
    return _flink(stream, _FLINK_JSON, inserted="")


def flink_avro(stream: Stream) -> str:
    """Return the same table of a topic of Avro values."""
    return _flink(stream, _FLINK_AVRO, inserted=" and registry")


def _spark(stream: Stream, read: str, *, a_format: str, inserted: str, head: str) -> str:
    return _SPARK.format(
        **names(stream),
        present="\n".join(f"      AND record.{name} IS NOT NULL" for name in required(stream)),
        read=read,
        a_format=a_format,
        inserted=inserted,
        head=head,
    )


def _flink(stream: Stream, values: str, *, inserted: str) -> str:
    columns = ",\n".join(
        f"  {_column(each, ' ')} COMMENT '{sql_comment(each)}'" for each in json_fields(stream)
    )
    return _FLINK.format(
        **names(stream),
        columns=columns,
        format=values,
        inserted=inserted,
        wait_s=_INTERVAL_S + _DELIVERY_S,
    )


def _without_docs(schema: dict[str, Any]) -> str:
    """JSON of a schema for a literal of SQL: its docs have quotes."""

    def bare(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: bare(each) for name, each in part.items() if name != "doc"}
        return [bare(each) for each in part] if isinstance(part, list) else part

    plain = bare(schema)
    columns = ",\n".join(f"        {json.dumps(each)}" for each in plain.pop("fields"))
    return f'      {json.dumps(plain)[:-1]}, "fields": [\n{columns}\n      ]}}'


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
