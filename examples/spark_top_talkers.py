"""Top talkers per 10 seconds by Spark Structured Streaming, from the JSON topic.

::

    spark-submit --packages org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0 \
        spark_top_talkers.py --brokers 127.0.0.1:9092 --checkpoint /var/tmp/top-talkers

A window is printed once, when the watermark has passed its end: one JSON line
per talker, the largest first. With --once the job reads what the topic holds
and ends; windows that are not over by then stay in the checkpoint for the next run.
A value that is not a flow record ends the job with topic, partition and offset.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Fields that the job needs; schemas/flows.spark.sql has all.
RECORD = """
    record_type INT, schema_version INT, host_id STRING, agent_epoch BIGINT, seq BIGINT,
    time_flow_end_ns BIGINT, flow_direction INT, src_addr STRING, packets BIGINT, bytes BIGINT
"""
NEEDED = [
    *("host_id", "agent_epoch", "seq", "time_flow_end_ns", "flow_direction"),
    *("src_addr", "packets", "bytes"),
]
# A packet that a host forwards is seen again going out: ingress counts it once.
INGRESS = 0


def records(messages: DataFrame) -> DataFrame:
    """Records by column; a value that is not a flow record ends the job, with its place."""
    record = f.from_json(f.col("value").cast("string"), RECORD)
    parsed = messages.select("topic", "partition", "offset", record.alias("record"))
    readable = (f.col("record.record_type") == 1) & (f.col("record.schema_version") == 1)
    for name in NEEDED:
        readable &= f.col(f"record.{name}").isNotNull()
    place = f.format_string(
        "%s, partition %d, offset %d: not a JSON flow record of schema version 1",
        "topic",
        "partition",
        "offset",
    )
    checked = f.when(readable, f.col("record")).otherwise(f.raise_error(place))
    return parsed.select(checked.alias("record")).select("record.*")


def top_talkers(messages: DataFrame, wait: str) -> DataFrame:
    """Sum the records of each window and source; ``wait`` is how late a record may come.

    Records are deltas, so they may be summed. A record that was published twice
    has the same run and seq.
    """
    # DIV, since / would go through doubles, which round nanoseconds.
    end = f.expr("timestamp_micros(time_flow_end_ns DIV 1000)")
    return (
        records(messages)
        .where(f.col("flow_direction") == INGRESS)
        .withColumn("end", end)
        .withWatermark("end", wait)
        .dropDuplicatesWithinWatermark(["host_id", "agent_epoch", "seq"])
        .groupBy(f.window("end", "10 seconds"), "src_addr")
        .agg(f.sum("packets").alias("packets"), f.sum("bytes").alias("bytes"))
    )


def show(top: int, batch: DataFrame) -> None:
    """Print the largest talkers of each window that is over."""
    start = f.unix_timestamp("window.start").alias("start")
    rows = batch.select(start, "src_addr", "packets", "bytes").collect()
    talkers: dict[int, list[dict[str, object]]] = {}
    for row in sorted(rows, key=lambda row: (row.start, -row.bytes, row.src_addr)):
        talkers.setdefault(row.start, []).append(row.asDict())
    for window in talkers.values():
        for talker in window[:top]:
            print(json.dumps(talker), flush=True)


def main() -> None:
    """Run the job until it is interrupted, or once."""
    parser = argparse.ArgumentParser(description="Top talkers per 10 seconds.")
    parser.add_argument("--brokers", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--topic", default="flowstream.flows")
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory of the job")
    parser.add_argument("--wait", default="30 seconds", help="how late a record may come")
    parser.add_argument("--top", type=int, default=10, metavar="N")
    parser.add_argument("--once", action="store_true", help="end when the topic is read")
    args = parser.parse_args()
    spark = SparkSession.builder.appName("top-talkers").getOrCreate()
    messages = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", args.brokers)
        .option("subscribe", args.topic)
        .option("startingOffsets", "earliest")
        .load()
    )
    writer = (
        top_talkers(messages, args.wait)
        .writeStream.outputMode("append")
        .option("checkpointLocation", str(args.checkpoint))
        .foreachBatch(lambda batch, _: show(args.top, batch))
    )
    trigger = {"availableNow": True} if args.once else {"processingTime": "10 seconds"}
    query = writer.trigger(**trigger).start()
    query.awaitTermination()
    late = sum(
        state["numRowsDroppedByWatermark"]
        for progress in query.recentProgress
        for state in progress["stateOperators"]
    )
    if late:
        print(f"{late} records came too late: use a longer --wait", file=sys.stderr)


if __name__ == "__main__":
    main()
