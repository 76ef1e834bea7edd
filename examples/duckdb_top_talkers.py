"""Top talkers per 10 seconds by DuckDB, from JSON lines.

::

    python json_lines.py file:flowstream-recording flowstream.flows > flows.jsonl
    python duckdb_top_talkers.py flows.jsonl

One JSON line per talker, the largest of each window first.
"""

from __future__ import annotations

import argparse
import json

import duckdb

# All integers of a record fit their type: nothing is guessed, nothing becomes a float.
TOP_TALKERS = """
WITH records AS (
    SELECT DISTINCT ON (host_id, agent_epoch, seq) *
    FROM read_json($file, format = 'newline_delimited', columns = {
        record_type: 'UTINYINT', host_id: 'VARCHAR', agent_epoch: 'UBIGINT', seq: 'UBIGINT',
        time_flow_end_ns: 'UBIGINT', src_addr: 'VARCHAR', packets: 'UBIGINT', bytes: 'UBIGINT'
    })
    WHERE record_type = 1
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
