"""SQL of a dashboard in ClickHouse; run by the examples' Python.

Standard input has a JSON object: ``tables``, the DDL; ``lines``, a file of JSON records to
insert as if they came from the topic; ``queries``, [name, text] each. Prints an object of the
answers by name, each with ``meta`` (name and type of the columns) and ``data`` (the rows). Of the
DDL only the queue differs: chdb does not run ClickHouse's Kafka tables.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile

from chdb.session import Session

TABLE = "flowstream_flows"


def main() -> None:
    order = json.load(sys.stdin)
    # A table that keeps nothing still feeds its view.
    tables = re.sub(r"ENGINE = Kafka\s+SETTINGS[^;]*", "ENGINE = Null", order["tables"])
    with tempfile.TemporaryDirectory() as data:
        # ClickHouse keeps a copy of a schema in the working directory.
        os.chdir(data)
        session = Session(data)
        for statement in tables.split(";\n"):
            if statement.strip():
                session.query(statement)
        # The records are as old as their capture.
        session.query("SYSTEM STOP TTL MERGES")
        # Twice, as a consumer does that was lost before its commit.
        for _ in range(2):
            session.query(
                f"INSERT INTO {TABLE}_queue SELECT * FROM file('{order['lines']}', 'JSONEachRow') "
                "SETTINGS input_format_skip_unknown_fields = 1"
            )
        answers = {
            name: json.loads(str(session.query(text, "JSONCompact")))
            for name, text in order["queries"]
        }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
