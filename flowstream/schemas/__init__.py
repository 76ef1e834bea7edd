"""Schemas and table definitions of the topics, generated from the records' Structs.

``make generate`` writes them into ``schemas/``; ``make lint`` compares them, also with
the schemas of every release (``tools.compatibility``).
They describe JSON with the names ``goflow2``, Avro, Protobuf and the layout of
MessagePack; the tables read JSON, but where their name says another format.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from flowstream.errors import UsageError
from flowstream.records import avro_schema, protobuf_schema
from flowstream.schemas import clickhouse, engines, json_lines, json_schema, layout
from flowstream.schemas.topics import record_of
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable


def _pretty(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _layout(stream: Stream) -> str:
    if stream is Stream.COUNTERS:
        raise UsageError(
            "counters have no fixed layout: in MessagePack their numbers are shortened"
        )
    return _pretty(layout.document())


_TEXTS: Final[dict[str, Callable[[Stream], str]]] = {
    "json": lambda stream: _pretty(json_schema.document(stream)),
    "avro": lambda stream: _pretty(avro_schema.schema(record_of(stream))),
    "protobuf": lambda stream: protobuf_schema.definition(record_of(stream)),
    "layout": _layout,
    "clickhouse": clickhouse.definition,
    "clickhouse-protobuf": clickhouse.protobuf_definition,
    "spark": engines.spark,
    "spark-avro": engines.spark_avro,
    "flink": engines.flink,
    "flink-avro": engines.flink_avro,
    "duckdb": json_lines.duckdb,
    "polars": json_lines.polars,
}
_SUFFIXES: Final = {
    "json": "schema.json",
    "avro": "avsc",
    "protobuf": "proto",
    "layout": "layout.json",
    "clickhouse": "clickhouse.sql",
    "clickhouse-protobuf": "clickhouse-protobuf.sql",
    "spark": "spark.sql",
    "spark-avro": "spark-avro.sql",
    "flink": "flink.sql",
    "flink-avro": "flink-avro.sql",
    "duckdb": "duckdb.sql",
    "polars": "polars.py",
}
# These describe records, not topics: one file for both topics that carry flows,
# because a name may be defined only once in a program.
_OF_RECORDS: Final = ("avro", "protobuf", "layout")

FORMATS: Final = tuple(_TEXTS)
"""Names that ``text`` knows."""

VALUE_FORMATS: Final = ("json", *_OF_RECORDS)
"""Formats that describe values; the others are definitions for a reader's own tables."""


def text(name: str, stream: Stream) -> str:
    """Schema or definition of one topic, in the format ``name``, one of ``FORMATS``.

    Raises UsageError for the layout of counters, which have none.
    """
    return _TEXTS[name](stream)


def files(formats: tuple[str, ...] = FORMATS) -> dict[str, str]:
    """File name and content of everything in these formats."""
    return {
        f"{stream}.{_SUFFIXES[name]}": text(name, stream)
        for name in formats
        for stream in Stream
        if (stream is not Stream.NEW_FLOWS or name not in _OF_RECORDS)
        and (stream is not Stream.COUNTERS or name != "layout")
    }
