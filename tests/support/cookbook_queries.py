"""Queries of docs/cookbook.md in their engines; run by the examples' Python.

Standard input has a JSON object: ``directory`` of the Parquet files and ``duckdb``,
``clickhouse`` and ``polars``, each a list of [name, text], run in order; texts of polars are
Python that defines one function of a file, whose name stands before the text. ``tables`` is
the DDL of ClickHouse's tables, ``lines`` the JSON lines to insert. Prints an object of the
rows by name.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from typing import Any

import duckdb
from chdb.session import Session


def by_duckdb(queries: list[tuple[str, str]]) -> dict[str, list[Any]]:
    connection = duckdb.connect()
    return {name: connection.execute(text).fetchall() for name, text in queries}


def by_clickhouse(queries: list[tuple[str, str]], tables: str, lines: str) -> dict[str, list[Any]]:
    with tempfile.TemporaryDirectory() as data:
        session = Session(data)

        def rows(query: str) -> list[Any]:
            text = str(session.query(query.rstrip("; \n"), "JSONEachRow"))
            return [tuple(json.loads(line).values()) for line in text.splitlines()]

        # A table that keeps nothing still feeds its view.
        tables = re.sub(r"ENGINE = Kafka\s+SETTINGS[^;]*", "ENGINE = Null", tables)
        for statement in tables.split(";\n"):
            if statement.strip():
                session.query(statement)
        described = rows("DESCRIBE flowstream_flows_queue")
        columns = ", ".join(f"`{name}` {kind}" for name, kind, *_ in described)
        # Twice, as a consumer does that was lost before its commit: two parts.
        for _ in range(2):
            session.query(
                "INSERT INTO flowstream_flows_queue "
                f"SELECT * FROM file('{lines}', 'JSONEachRow', '{columns}')"
            )
        return {name: rows(text) for name, text in queries}


def by_polars(queries: list[tuple[str, str]]) -> dict[str, list[Any]]:
    found = {}
    for name, text in queries:
        names: dict[str, Any] = {}
        exec(text, names)
        file = "counters.parquet" if name == "rates" else "flows.parquet"
        found[name] = names[name](file).rows()
    return found


def main() -> None:
    given = json.load(sys.stdin)
    os.chdir(given["directory"])
    found = {
        **by_duckdb(given["duckdb"]),
        **by_clickhouse(given["clickhouse"], given["tables"], given["lines"]),
        **by_polars(given["polars"]),
    }
    json.dump(found, sys.stdout, default=str)


if __name__ == "__main__":
    main()
