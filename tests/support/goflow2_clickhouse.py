"""GoFlow2's own ClickHouse tables and Grafana queries over a file of Protobuf values.

Run by the examples' Python, which has chdb (ClickHouse in the process): DIRECTORY is GoFlow2's
compose/kcg, VALUES a file of length-delimited messages. Prints one JSON object: the rows of
each panel's query and of both tables. Three things differ from GoFlow2's deployment: the
queue reads VALUES instead of a Kafka topic, the dictionary's file lies elsewhere,
and Grafana's macros are replaced here as its ClickHouse plugin does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chdb.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL_S = 60


def statements(script: str) -> Iterator[str]:
    """SQL of GoFlow2's create.sh, as its shell passes it on."""
    found = re.search(r"<<-EOSQL\n(.*)EOSQL", script, re.DOTALL)
    assert found
    for statement in found[1].replace("\\`", "`").split(";"):
        if statement.strip():
            # A table that keeps nothing still feeds its views.
            yield re.sub(
                r"ENGINE = Kafka\(\)\s+SETTINGS.*", "ENGINE = Null", statement, flags=re.DOTALL
            )


def panels(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and target of every query of a dashboard."""
    for panel in part["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target


def expanded(target: dict[str, Any], begin_s: int, end_s: int) -> str:
    """Query of a panel with the macros of Grafana's ClickHouse plugin replaced, for DateTime64."""
    query: str = target["query"]
    for macro, text in {
        "$timeSeries": "intDiv(toFloat64($column) * 1000, $interval * 1000) * $interval * 1000",
        "$timeFilter": "$day >= toDate($from) AND $day <= toDate($to) AND "
        "$column >= toDateTime64($from, 3) AND $column <= toDateTime64($to, 3)",
        "$column": target["dateTimeColDataType"],
        "$day": target["dateColDataType"],
        "$table": f"{target['database']}.{target['table']}",
        "$interval": str(INTERVAL_S),
        "$from": str(begin_s),
        "$to": str(end_s),
    }.items():
        query = query.replace(macro, text)
    return query


def main() -> None:
    directory, values = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as data:
        # ClickHouse keeps a copy of the schema in the working directory, and dictionaries may
        # read files there only.
        os.chdir(data)
        session = Session(data)

        def rows(query: str) -> list[dict[str, Any]]:
            text = str(session.query(query, "JSONEachRow"))
            return [json.loads(line) for line in text.splitlines()]

        protocols = shutil.copy(directory / "clickhouse" / "protocols.csv", data)
        for statement in statements((directory / "clickhouse" / "create.sh").read_text()):
            session.query(
                statement.replace("/var/lib/clickhouse/user_files/protocols.csv", protocols)
            )
        columns = ", ".join(f"{row['name']} {row['type']}" for row in rows("DESCRIBE flows"))
        schema = (directory / "clickhouse" / "flow.proto").read_text().replace("'", "\\'")
        session.query(
            f"INSERT INTO flows SELECT * FROM file('{values}', 'Protobuf', '{columns}') "
            f"SETTINGS format_schema_source = 'string', format_schema = '{schema}', "
            "format_schema_message_name = 'FlowMessage'"
        )
        (span,) = rows(
            "SELECT toUnixTimestamp(min(time_flow_start_ns)) AS begin, "
            "toUnixTimestamp(max(time_flow_start_ns)) AS end FROM flows_raw"
        )
        dashboard = json.loads((directory / "grafana/dashboards/viz-ch.json").read_text())
        found = {
            title: rows(expanded(target, span["begin"], span["end"] + 1))
            for title, target in panels(dashboard)
        }
        for table, count in {"flows_raw": "count()", "flows_5m": "sum(count)"}.items():
            sums = f"{count} AS records, sum(bytes) AS octets, sum(packets) AS packets"
            found[table] = rows(f"SELECT {sums} FROM {table}")
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
