"""Top talkers per 10 seconds by DuckDB, from JSON lines.

::

    python json_lines.py file:flowstream-recording flowstream.flows > flows.jsonl
    python duckdb_top_talkers.py flows.jsonl

One JSON line per talker, the largest of each window first. A line that is no
record of schema version 1 ends it with the file and line.
"""

from __future__ import annotations

import argparse
import json

import duckdb

# All integers of a record fit their type: nothing is guessed, nothing becomes a float.
# Types 2 and 3, announcements and counters, may be among the lines. One CASE decides,
# for DuckDB evaluates the parts of an AND in any order.
TOP_TALKERS = """
WITH lines AS (
    SELECT row_number() OVER () AS line, *
    FROM read_json($file, format = 'newline_delimited', columns = {
        record_type: 'UTINYINT', schema_version: 'UTINYINT',
        host_id: 'VARCHAR', agent_epoch: 'UBIGINT', seq: 'UBIGINT',
        time_flow_end_ns: 'UBIGINT', flow_direction: 'UTINYINT', src_addr: 'VARCHAR',
        packets: 'UBIGINT', bytes: 'UBIGINT'
    })
), records AS (
    SELECT DISTINCT ON (host_id, agent_epoch, seq) *
    FROM lines
    WHERE CASE
        WHEN schema_version = 1 AND record_type IN (2, 3) THEN false
        WHEN schema_version = 1 AND record_type = 1
            AND host_id IS NOT NULL AND agent_epoch IS NOT NULL AND seq IS NOT NULL
            AND time_flow_end_ns IS NOT NULL AND flow_direction IS NOT NULL
            AND src_addr IS NOT NULL AND packets IS NOT NULL AND bytes IS NOT NULL
            -- A packet that a host forwards is seen again going out: ingress counts it once.
            THEN flow_direction = 0
        ELSE error($file || ': line ' || line || ': not a record of schema version 1')
    END
), talkers AS (
    SELECT time_flow_end_ns // 10_000_000_000 * 10 AS start, src_addr,
           sum(packets)::UBIGINT AS packets, sum(bytes)::UBIGINT AS bytes
    FROM records
    GROUP BY ALL
)
FROM talkers
QUALIFY row_number() OVER (PARTITION BY start ORDER BY bytes DESC, src_addr) <= $top
ORDER BY start, bytes DESC, src_addr
"""


def main() -> None:
    """Query one file."""
    parser = argparse.ArgumentParser(description="Top talkers per 10 seconds.")
    parser.add_argument("file", help="JSON lines, e.g. of json_lines.py")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    args = parser.parse_args()
    found = duckdb.execute(TOP_TALKERS, {"file": args.file, "top": args.top})
    names = [column[0] for column in found.description]
    for row in found.fetchall():
        print(json.dumps(dict(zip(names, row, strict=True))))


if __name__ == "__main__":
    main()
