"""Counters of each 10 seconds by the definition in schemas/, as a JSON line per window.

::

    python flink_counters.py DEFINITION BROKERS TOPIC JAR...

It goes on until it is ended, so a line is printed only when the watermark passes a window's end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

# The map is summed whole, whatever its keys.
QUERY = """
SELECT window_start, COUNT(DISTINCT seq), SUM(loss.packets)
FROM TUMBLE(TABLE flowstream_counters, DESCRIPTOR(event_time), INTERVAL '10' SECOND)
CROSS JOIN UNNEST(losses) AS entries (cause, loss)
GROUP BY window_start, window_end
"""


def main(definition: str, brokers: str, topic: str, *jars: str) -> None:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    config = tables.get_config()
    config.set("pipeline.jars", ";".join(Path(jar).resolve().as_uri() for jar in jars))
    config.set("table.local-time-zone", "UTC")
    tables.execute_sql(Path(definition).read_text(encoding="utf-8").rstrip().removesuffix(";"))
    tables.execute_sql(
        f"ALTER TABLE flowstream_counters SET ('topic' = '{topic}', "
        f"'properties.bootstrap.servers' = '{brokers}')"
    )
    with tables.execute_sql(QUERY).collect() as rows:
        for start, records, lost in rows:
            line = {"start": str(start), "records": records, "lost": lost}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
