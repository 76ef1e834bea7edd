"""Definitions of schemas/ for ClickHouse, DuckDB and polars, over files of values.

Run by the examples' Python, which has chdb (ClickHouse in the process), duckdb and polars::

    python tables.py DEFINITION FILE

DEFINITION is a file's name below schemas/. Prints the rows of its table, a JSON object each;
for counters a last line has the packets lost of all rows: summed from the types of the
definition, and from those that DuckDB and polars infer. Of ClickHouse's definition only the
queue differs: it reads FILE, not a Kafka topic.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import chdb.session
import duckdb
import polars as pl

SCHEMAS = Path(__file__).parents[2] / "schemas"
Rows = list[dict[str, Any]]


def clickhouse(definition: Path, file: Path) -> tuple[Rows, None]:
    """Rows of the table, with its aliases and times as they were."""
    stream, name = definition.name.removesuffix(".sql").split(".")
    table = f"flowstream_{stream}"
    with tempfile.TemporaryDirectory() as data:
        # ClickHouse keeps a copy of a schema in the working directory.
        os.chdir(data)
        session = chdb.session.Session(data)

        def rows(query: str) -> Rows:
            text = str(session.query(query, "JSONEachRow"))
            return [json.loads(line) for line in text.splitlines()]

        for statement in definition.read_text(encoding="utf-8").split(";\n"):
            # A table that keeps nothing still feeds its view.
            session.query(
                re.sub(r"ENGINE = Kafka\s+SETTINGS.*", "ENGINE = Null", statement, flags=re.DOTALL)
            )
        queue = rows(f"DESCRIBE {table}_queue")
        columns = ", ".join(f"`{row['name']}` {row['type']}" for row in queue)
        columns = columns.replace("\\", "\\\\").replace("'", "\\'")
        values, settings = "JSONEachRow", "input_format_skip_unknown_fields = 1"
        if name == "clickhouse-protobuf":
            ((schema, message),) = re.findall(
                r"kafka_schema = '(\w+):(\w+)'", definition.read_text(encoding="utf-8")
            )
            text = (SCHEMAS / f"{schema}.proto").read_text(encoding="utf-8").replace("'", "\\'")
            values = "Protobuf"
            settings = (
                f"format_schema_source = 'string', format_schema = '{text}', "
                f"format_schema_message_name = '{message}'"
            )
        session.query(
            f"INSERT INTO {table}_queue "
            f"SELECT * FROM file('{file}', '{values}', '{columns}') SETTINGS {settings}"
        )
        described = rows(f"DESCRIBE {table}")
        selected = [
            f"toUnixTimestamp64Nano({row['name']}) AS {row['name']}"
            if row["type"].startswith("DateTime64")
            else row["name"]
            for row in described
        ]
        return rows(
            f"SELECT {', '.join(selected)} FROM {table} FINAL ORDER BY seq "
            "SETTINGS output_format_json_quote_64bit_integers = 0"
        ), None


def from_duckdb(definition: Path, file: Path) -> tuple[Rows, dict[str, int] | None]:
    """Rows of the view, without the columns that it adds."""
    name = f"flowstream_{definition.name.partition('.')[0]}"
    with duckdb.connect() as connection:
        connection.execute(
            definition.read_text(encoding="utf-8").replace(f"'{name}.jsonl'", f"'{file}'")
        )
        found = connection.execute(f"SELECT * EXCLUDE (event_time, line) FROM {name}")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        if "losses" not in names:
            return rows, None
        # As the head of the definition has it.
        total = "list_sum(list_transform(map_values(losses), lambda loss: loss.packets))"
        (explicit,) = connection.execute(f"SELECT sum({total})::UBIGINT FROM {name}").fetchone()
        inferred = connection.execute(f"SELECT losses FROM read_json('{file}')").fetchall()
        return rows, {"explicit": explicit, "inferred": sum(map(_packets, inferred))}


def _packets(row: tuple[dict[str, dict[str, int]]]) -> int:
    # A key that a line lacks is null there.
    return sum(loss["packets"] for loss in row[0].values() if loss)


def from_polars(definition: Path, file: Path) -> tuple[Rows, dict[str, int] | None]:
    """Rows of the file by the definition's schema."""
    schema = runpy.run_path(str(definition))["SCHEMA"]
    frame = pl.scan_ndjson(file, schema=schema).collect()
    if "losses" not in schema:
        return frame.to_dicts(), None
    # As the head of the definition has it.
    lost = pl.col("losses").map.values()
    total = lost.list.eval(pl.element().struct.field("packets")).list.sum()
    inferred = pl.read_ndjson(file)["losses"].to_list()
    return frame.to_dicts(), {
        "explicit": frame.select(total.sum()).item(),
        "inferred": sum(_packets((row,)) for row in inferred),
    }


READERS = {
    "clickhouse": clickhouse,
    "clickhouse-protobuf": clickhouse,
    "duckdb": from_duckdb,
    "polars": from_polars,
}


def main(definition: str, file: str) -> None:
    read = READERS[definition.split(".")[1]]
    rows, lost = read(SCHEMAS / definition, Path(file).resolve())
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    if lost is not None:
        sys.stdout.write(json.dumps(lost) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
