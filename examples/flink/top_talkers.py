"""Top talkers per 10 seconds by Flink SQL, from the JSON or the Avro topic.

::

    flowstream schema flink > flows.flink.sql
    python top_talkers.py flows.flink.sql --brokers 127.0.0.1:9092 \
        --jar flink-sql-connector-kafka-5.0.0-2.2.jar

A window is printed once, when the watermark has passed its end: one JSON line per
talker, the largest first. With --once the job reads what the topic holds, closes
all windows and ends. A record of another type or version ends it with topic, partition
and offset, a value that is no JSON without.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

# A record that was published twice has the same run and seq, and so the same window. A packet
# that a host forwards is seen again going out: ingress counts it once. Flink has no function
# that raises an error: the text of the place is not a BOOLEAN, which is one.
TOP_TALKERS = """
WITH records AS (
    SELECT *
    FROM flowstream_flows
    WHERE CASE
        WHEN record_type = 1 AND schema_version = 1
            AND host_id IS NOT NULL AND agent_epoch IS NOT NULL AND seq IS NOT NULL
            AND time_flow_end_ns IS NOT NULL AND flow_direction IS NOT NULL
            AND src_addr IS NOT NULL AND packets IS NOT NULL AND `bytes` IS NOT NULL
        THEN flow_direction = 0
        ELSE CAST(CONCAT('{topic}, partition ', CAST(`partition` AS STRING), ', offset ',
            CAST(`offset` AS STRING), ': not a flow record of schema version 1') AS BOOLEAN)
    END
), numbered AS (
    SELECT window_start, window_end, src_addr, packets, `bytes`, ROW_NUMBER() OVER (
        PARTITION BY window_start, window_end, host_id, agent_epoch, seq
        ORDER BY event_time
    ) AS time_of_record
    FROM TUMBLE(TABLE records, DESCRIPTOR(event_time), INTERVAL '10' SECOND)
), talkers AS (
    SELECT window_start, window_end, src_addr,
        SUM(packets) AS packets, SUM(`bytes`) AS `bytes`
    FROM numbered
    WHERE time_of_record = 1
    GROUP BY window_start, window_end, src_addr
), placed AS (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY window_start, window_end ORDER BY `bytes` DESC, src_addr
    ) AS place
    FROM talkers
)
SELECT window_start, src_addr, packets, `bytes` FROM placed WHERE place <= {top}
"""


def main() -> None:
    """Run the job until it is interrupted, or once."""
    parser = argparse.ArgumentParser(description="Top talkers per 10 seconds.")
    parser.add_argument("table", type=Path, help="definition of flowstream_flows")
    parser.add_argument("--jar", type=Path, action="append", required=True, help="connector")
    parser.add_argument("--brokers", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--registry", metavar="URL", help="of the Avro topic")
    parser.add_argument("--topic", default="flowstream.flows")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    parser.add_argument("--once", action="store_true", help="end when the topic is read")
    args = parser.parse_args()
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    config = tables.get_config()
    config.set("pipeline.jars", ";".join(jar.resolve().as_uri() for jar in args.jar))
    # The connector still logs while the job's classes are unloaded.
    config.set("classloader.check-leaked-classloader", "false")
    config.set("table.local-time-zone", "UTC")
    tables.execute_sql(args.table.read_text(encoding="utf-8").rstrip().removesuffix(";"))
    options = {"topic": args.topic, "properties.bootstrap.servers": args.brokers}
    if args.registry:
        options["avro-confluent.url"] = args.registry
    if args.once:
        options["scan.bounded.mode"] = "latest-offset"
    changed = ", ".join(f"'{name}' = '{value}'" for name, value in options.items())
    tables.execute_sql(f"ALTER TABLE flowstream_flows SET ({changed})")
    query = TOP_TALKERS.format(topic=args.topic, top=args.top)
    with tables.execute_sql(query).collect() as rows:
        for start, source, packets, octets in rows:
            talker = {
                "start": int(start.replace(tzinfo=UTC).timestamp()),
                "src_addr": source,
                "packets": packets,
                "bytes": octets,
            }
            print(json.dumps(talker), flush=True)


if __name__ == "__main__":
    main()
