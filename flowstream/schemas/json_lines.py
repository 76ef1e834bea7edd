"""DuckDB and polars: types of every field of JSON lines.

Both infer the maps of counters as records with the keys of the first lines, and drop keys
that come later without a word.
"""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING, Final

from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.schemas.topics import json_fields, names, required
from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.records.describe import Field

_DUCKDB_TYPES: Final = {
    Kind.U8: "UTINYINT",
    Kind.U16: "USMALLINT",
    Kind.U32: "UINTEGER",
    Kind.U64: "UBIGINT",
    Kind.ADDRESS: "VARCHAR",
    Kind.HOST_ID: "VARCHAR",
    Kind.MAC: "VARCHAR",
    Kind.BOOL: "BOOLEAN",
    Kind.TEXT: "VARCHAR",
}
_DUCKDB: Final = """\
-- Insert your file of JSON lines. Any other line is an error that names it.
CREATE OR REPLACE VIEW {name} AS
SELECT make_timestamp_ns({time}::BIGINT) AS event_time, lines.*
FROM (
  SELECT row_number() OVER () AS line, *
  FROM read_json('{name}.jsonl', format = 'newline_delimited', columns = {{
{columns}
  }})
) AS lines
WHERE CASE
  WHEN record_type = {record_type} AND schema_version = {schema_version}
{present}
  THEN true
  ELSE error('{name}.jsonl: line ' || line || ': not a JSON record of schema version {schema_version}')
END;
"""  # noqa: E501 - the text of an error
_DUCKDB_COUNTERS: Final = """\
-- Maps are summed whole, whatever their keys:
-- list_sum(list_transform(map_values(losses), lambda loss: loss.packets))
"""

# polars reads no smaller numbers from JSON.
_POLARS_TYPES: Final = {
    Kind.U8: "pl.UInt32",
    Kind.U16: "pl.UInt32",
    Kind.U32: "pl.UInt32",
    Kind.U64: "pl.UInt64",
    Kind.ADDRESS: "pl.String",
    Kind.HOST_ID: "pl.String",
    Kind.MAC: "pl.String",
    Kind.BOOL: "pl.Boolean",
    Kind.TEXT: "pl.String",
}
_POLARS: Final = '''\
"""Types of {topic} for polars 2 or later.

::

    pl.scan_ndjson("{name}.jsonl", schema=SCHEMA)

Check that record_type is {record_type} and schema_version {schema_version}: polars does not.
{more}"""

import polars as pl

SCHEMA = {{
{columns}
}}
'''
_POLARS_COUNTERS: Final = """
Maps are summed whole, whatever their keys::

    lost = pl.col("losses").map.values()
    lost.list.eval(pl.element().struct.field("packets")).list.sum()
"""


def duckdb(stream: Stream) -> str:
    """Return a view of a file of JSON lines, with ``event_time`` and the line's number."""
    columns = json_fields(stream)
    view = _DUCKDB.format(
        **names(stream),
        present="\n".join(f"    AND {name} IS NOT NULL" for name in required(stream)),
        columns=",\n".join(f"    '{each.name}': '{_duckdb_type(each)}'" for each in columns),
    )
    return (_DUCKDB_COUNTERS if stream is Stream.COUNTERS else "") + view


def polars(stream: Stream) -> str:
    """Return a Python module with the schema of a file of JSON lines."""
    return _POLARS.format(
        **names(stream),
        more=_POLARS_COUNTERS if stream is Stream.COUNTERS else "",
        columns="\n".join(_polars_column(each) for each in json_fields(stream)),
    )


def _duckdb_type(field: Field) -> str:
    if field.record is None:
        return _DUCKDB_TYPES[field.kind]
    part = ", ".join(f"{each.name} {_duckdb_type(each)}" for each in fields(field.record))
    return f"STRUCT({part})" if field.kind is Kind.PART else f"MAP(VARCHAR, STRUCT({part}))"


def _polars_column(field: Field) -> str:
    if field.record is None:
        return f'    "{field.name}": {_POLARS_TYPES[field.kind]},'
    struct = "\n".join(
        f'        "{each.name}": {_POLARS_TYPES[each.kind]},' for each in fields(field.record)
    )
    struct = f"pl.Struct(\n    {{\n{struct}\n    }}\n)"
    if field.kind is not Kind.PART:
        struct = f"pl.Map(\n    pl.String,\n{indent(struct, '    ')},\n)"
    return indent(f'"{field.name}": {struct},', "    ")
