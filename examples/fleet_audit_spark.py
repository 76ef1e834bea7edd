"""Audits all agents of a fleet and sums their traffic, in one pass of Spark over the topics.

::

    spark-submit --packages org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0 \
        fleet_audit_spark.py --brokers 10.0.0.1:9092 --to result.json

A batch job over the JSON topics, from their beginning to their present end:

- duplicates: the same ``seq`` of the same run and topic again; summed once;
- missing: numbers below the highest ``seq``, or below the number of records that
  the final counters report, that are not there, and how many of them were counted
  as failed, are in doubt, or wait in the spool of their host;
- the loss equation of every run, interface and direction, in packets and frame octets;
- traffic by host and destination prefix, /16 of IPv4 and /48 of IPv6, of ingress:
  a packet that a host forwards is seen again going out.

Exit status 1 when a run's accounts do not hold (losses that are counted do not
break them).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

RUN = ["host_id", "agent_epoch"]
ATTACHMENT = ["if_index", "flow_direction"]
INGRESS = 0
AMOUNTS = ["packets", "bytes", "l2_bytes"]

FLOW = """
    record_type INT, schema_version INT, agent_epoch LONG, host_id STRING, seq LONG,
    if_index LONG, flow_direction INT, dst_addr STRING, packets LONG, bytes LONG, l2_bytes LONG
"""
LOSSES = "MAP<STRING, STRUCT<records: LONG, packets: LONG, l2_bytes: LONG>>"
COUNTERS = f"""
    record_type INT, schema_version INT, agent_epoch LONG, host_id STRING, seq LONG,
    if_index LONG, flow_direction INT, host STRING, if_name STRING,
    seen_packets LONG, seen_l2_bytes LONG,
    no_flow MAP<STRING, STRUCT<packets: LONG, l2_bytes: LONG>>,
    losses {LOSSES}, in_doubt {LOSSES},
    stages MAP<STRING, STRUCT<encoded: LONG, failed: LONG>>, final BOOLEAN,
    spool STRUCT<records: LONG, packets: LONG, l2_bytes: LONG>
"""


def records(spark: SparkSession, brokers: str, topics: list[str], schema: str) -> DataFrame:
    """Records of the topics by column; any other value ends the job.

    The error names topic, partition and offset: nothing is passed over in silence.
    """
    messages = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", brokers)
        .option("subscribe", ",".join(topics))
        .option("startingOffsets", "earliest")
        .option("endingOffsets", "latest")
        # A fetch at a partition's end waits that long for more (500 ms), and what the
        # connector asks next waits behind it: nothing is to come in a batch job.
        .option("kafka.fetch.max.wait.ms", "10")
        .load()
    )
    record = f.from_json(f.col("value").cast("string"), schema)
    place = f.format_string(
        "%s, partition %d, offset %d: not a JSON record of schema version 1",
        "topic",
        "partition",
        "offset",
    )
    # Version 1 is only ever added to at the end, so other fields do not matter.
    readable = (
        (f.col("record.schema_version") == 1)
        & f.col("record.seq").isNotNull()
        & f.col("record.host_id").isNotNull()
        & f.col("record.agent_epoch").isNotNull()
    )
    checked = f.when(readable, f.col("record")).otherwise(f.raise_error(place))
    parsed = messages.select("topic", "partition", "offset", record.alias("record"))
    return parsed.select("topic", checked.alias("record")).select("topic", "record.*")


def prefix(address: Column) -> Column:
    """The /16 of IPv4 text or the /48 of IPv6 text, of which "::" may hide a group."""
    v4 = f.concat(f.substring_index(address, ".", 2), f.lit(".0.0/16"))
    halves = f.split(address, "::")

    def groups(half: Column) -> Column:
        return f.filter(f.split(half, ":"), lambda group: group != "")

    head = groups(halves[0])
    tail = f.when(f.size(halves) > 1, groups(f.get(halves, f.lit(1)))).otherwise(f.array())
    zeros = f.array_repeat(f.lit("0"), f.lit(8) - f.size(head) - f.size(tail))
    whole = f.concat(head, zeros, tail)
    v6 = f.concat(f.array_join(f.slice(whole, 1, 3), ":"), f.lit("::/48"))
    return f.when(f.contains(address, f.lit(":")), v6).otherwise(v4)


def cube(flows: DataFrame) -> DataFrame:
    """Sums per topic, run, interface, direction and prefix: the only pass over all records.

    Records are distributed by run, so that finding duplicates and summing need no
    further shuffle. ``copies`` counts all records, ``records`` without duplicates.
    """
    distinct = (
        flows.withColumn("prefix", prefix(f.col("dst_addr")))
        .repartition(*RUN)
        .groupBy(*RUN, "topic", "seq", *ATTACHMENT, "prefix")
        .agg(f.count("*").alias("copies"), *(f.first(name).alias(name) for name in AMOUNTS))
    )
    return distinct.groupBy(*RUN, "topic", *ATTACHMENT, "prefix").agg(
        f.sum("copies").alias("copies"),
        f.count("*").alias("records"),
        f.max("seq").alias("last_seq"),
        *(f.sum(name).alias(name) for name in AMOUNTS),
    )


def last_counters(counters: DataFrame) -> DataFrame:
    """The last counters record of every run, interface and direction: they are cumulative."""
    fields = f.struct("seq", *(name for name in counters.columns if name != "seq"))
    return (
        counters.groupBy(*RUN, *ATTACHMENT)
        .agg(f.max_by(fields, "seq").alias("last"))
        .select("last.*")
        .drop("topic")
    )


def total(amounts: str, what: str) -> Column:
    """Sum over all keys of a map, also those that this program does not know."""
    each = f.transform(f.map_values(f.col(amounts)), lambda amount: amount[what])
    return f.aggregate(each, f.lit(0).cast("long"), lambda before, amount: before + amount)


def unanswered(what: str) -> Column:
    """Sum of what is in doubt and of what waits in the spool: published or not."""
    return total("in_doubt", what) + f.coalesce(f.col("spool")[what], f.lit(0))


def interfaces(sums: DataFrame, counters: DataFrame, flow_topic: str) -> DataFrame:
    """The loss equation by run, interface and direction: packets and octets not explained."""
    published = (
        sums.where(f.col("topic") == flow_topic)
        .groupBy(*RUN, *ATTACHMENT)
        .agg(f.sum("packets").alias("packets"), f.sum("l2_bytes").alias("l2_bytes"))
    )
    joined = counters.join(published, [*RUN, *ATTACHMENT], "full_outer")
    for unit in ("packets", "l2_bytes"):
        explained = (
            total("no_flow", unit) + total("losses", unit) + f.coalesce(f.col(unit), f.lit(0))
        )
        joined = joined.withColumn(f"{unit}_off", f.col(f"seen_{unit}") - explained)
        joined = joined.withColumn(f"{unit}_unanswered", unanswered(unit))
    return joined.withColumn("lost_records", f.coalesce(total("losses", "records"), f.lit(0)))


def topics(sums: DataFrame, counters: DataFrame, streams: dict[str, str]) -> DataFrame:
    """Missing, failed, unanswered and duplicate records by run and topic (``streams``)."""
    seen = sums.groupBy(*RUN, "topic").agg(
        f.sum("copies").alias("copies"),
        f.sum("records").alias("records"),
        f.max("last_seq").alias("last_seq"),
    )
    made = None
    for stream, topic in streams.items():
        of_topic = counters.groupBy(*RUN).agg(
            f.lit(topic).alias("topic"),
            f.when(f.min("final"), f.sum(f.col("stages")[stream]["encoded"])).alias("encoded"),
            f.sum(f.col("stages")[stream]["failed"]).alias("failed"),
            f.sum(unanswered("records")).alias("unanswered"),
        )
        made = of_topic if made is None else made.unionByName(of_topic)
    joined = seen.join(made, [*RUN, "topic"], "full_outer").fillna(
        {"copies": 0, "records": 0, "last_seq": -1, "failed": 0, "unanswered": 0}
    )
    end = f.greatest(f.col("last_seq") + 1, f.coalesce(f.col("encoded"), f.lit(0)))
    return joined.select(
        *RUN,
        "topic",
        "records",
        "failed",
        "unanswered",
        (end - f.col("records")).alias("missing"),
        (f.col("copies") - f.col("records")).alias("duplicates"),
    )


def audit(spark: SparkSession, brokers: str, topic_prefix: str) -> dict[str, Any]:
    """Audit the topics of a fleet."""
    streams = {name: f"{topic_prefix}.{name}" for name in ("flows", "new_flows")}
    sums = cube(records(spark, brokers, list(streams.values()), FLOW)).persist()
    counters = last_counters(
        records(spark, brokers, [f"{topic_prefix}.counters"], COUNTERS)
    ).persist()
    equation = interfaces(sums, counters, streams["flows"])
    sequences = topics(sums, counters, streams)
    traffic = (
        sums.where((f.col("topic") == streams["flows"]) & (f.col("flow_direction") == INGRESS))
        .groupBy("host_id", "prefix")
        .agg(*(f.sum(name).alias(name) for name in ["records", *AMOUNTS]))
    )
    even = f.lit(True)
    for unit in ("packets", "l2_bytes"):
        even &= f.col(f"{unit}_off").between(f.lit(0), f.col(f"{unit}_unanswered"))
    # A missing term makes a sum NULL, which does not hold either.
    broken = equation.where(~f.coalesce(even & f.col("final"), f.lit(False)))
    lossy = equation.where(f.col("lost_records") > 0)
    gaps = sequences.where((f.col("missing") > 0) | (f.col("duplicates") > 0))
    result = {
        "records": sums.agg(f.sum("copies")).first()[0] or 0,
        "runs": counters.select(*RUN).distinct().count(),
        "traffic": [list(row) for row in traffic.collect()],
        "equation_broken": _found(
            broken, *RUN, *ATTACHMENT, "final", "packets_off", "l2_bytes_off", "packets_unanswered"
        ),
        "losses": _found(lossy, *RUN, "host", "if_name", "flow_direction", "losses"),
        "sequences": _found(gaps, *RUN, "topic", "missing", "failed", "unanswered", "duplicates"),
    }
    sums.unpersist()
    counters.unpersist()
    return result


def _found(frame: DataFrame, *names: str) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in frame.select(*names).collect()]


def holds(result: dict[str, Any]) -> bool:
    """Whether every packet and every record is accounted for."""
    unexplained = any(
        row["missing"] > row["failed"] + row["unanswered"] for row in result["sequences"]
    )
    return not result["equation_broken"] and not unexplained


def show(result: dict[str, Any]) -> None:
    """Print faults, losses and sums."""
    for name in ("equation_broken", "losses", "sequences"):
        for row in result[name]:
            print(f"{name}: {row}")
    hosts = len({row[0] for row in result["traffic"]})
    packets = sum(row[3] for row in result["traffic"])
    print(
        f"{result['records']:,} records of {hosts:,} hosts in {result['runs']:,} runs, "
        f"{packets:,} packets: {'holds' if holds(result) else 'DOES NOT HOLD'} "
        f"({result['seconds']:.1f} s)"
    )


def cpu_seconds(spark: SparkSession) -> float:
    """CPU time of the driver so far, which with a local master is all of Spark.

    Other load disturbs it less than time.
    """
    pid = spark.sparkContext._jvm.java.lang.ProcessHandle.current().pid()  # noqa: SLF001
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Audit the topics of every prefix in turn, in one session."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--brokers", required=True, metavar="HOST:PORT[,…]")
    parser.add_argument("--topic-prefix", nargs="+", default=["flowstream"])
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the results as JSON")
    options = parser.parse_args()
    spark = SparkSession.builder.appName("fleet-audit").getOrCreate()
    results = []
    for topic_prefix in options.topic_prefix:
        began, cpu = time.perf_counter(), cpu_seconds(spark)
        result = audit(spark, options.brokers, topic_prefix)
        result["seconds"] = time.perf_counter() - began
        result["cpu_seconds"] = cpu_seconds(spark) - cpu
        show(result)
        results.append({"topic_prefix": topic_prefix} | result)
    spark.stop()
    if options.to:
        options.to.write_text(json.dumps(results), encoding="utf-8")
    return 0 if all(map(holds, results)) else 1


if __name__ == "__main__":
    sys.exit(main())
