"""Types of flowstream.counters for polars 2 or later.

::

    pl.scan_ndjson("flowstream_counters.jsonl", schema=SCHEMA)

Check that record_type is 3 and schema_version 1: polars does not.

Maps are summed whole, whatever their keys::

    lost = pl.col("losses").map.values()
    lost.list.eval(pl.element().struct.field("packets")).list.sum()
"""

import polars as pl

SCHEMA = {
    "record_type": pl.UInt32,
    "schema_version": pl.UInt32,
    "agent_epoch": pl.UInt64,
    "host_id": pl.String,
    "sampler_address": pl.String,
    "seq": pl.UInt64,
    "host": pl.String,
    "agent_version": pl.String,
    "if_index": pl.UInt32,
    "if_name": pl.String,
    "flow_direction": pl.UInt32,
    "program_name": pl.String,
    "program_id": pl.UInt32,
    "attach_mode": pl.String,
    "time_unix_ns": pl.UInt64,
    "time_boot_ns": pl.UInt64,
    "interval_ns": pl.UInt64,
    "counters_period_ns": pl.UInt64,
    "seen_packets": pl.UInt64,
    "seen_l2_bytes": pl.UInt64,
    "no_flow": pl.Map(
        pl.String,
        pl.Struct(
            {
                "packets": pl.UInt64,
                "l2_bytes": pl.UInt64,
            }
        ),
    ),
    "losses": pl.Map(
        pl.String,
        pl.Struct(
            {
                "records": pl.UInt64,
                "packets": pl.UInt64,
                "l2_bytes": pl.UInt64,
            }
        ),
    ),
    "in_doubt": pl.Map(
        pl.String,
        pl.Struct(
            {
                "records": pl.UInt64,
                "packets": pl.UInt64,
                "l2_bytes": pl.UInt64,
            }
        ),
    ),
    "stages": pl.Map(
        pl.String,
        pl.Struct(
            {
                "drained": pl.UInt64,
                "encoded": pl.UInt64,
                "queued": pl.UInt64,
                "acknowledged": pl.UInt64,
                "spooled": pl.UInt64,
                "failed": pl.UInt64,
                "aggregated": pl.UInt64,
            }
        ),
    ),
    "table_entries": pl.UInt64,
    "table_capacity": pl.UInt64,
    "table_swaps": pl.UInt64,
    "final": pl.Boolean,
    "spool": pl.Struct(
        {
            "records": pl.UInt64,
            "packets": pl.UInt64,
            "l2_bytes": pl.UInt64,
            "octets": pl.UInt64,
            "oldest_ns": pl.UInt64,
        }
    ),
    "netns": pl.String,
    "previous_epoch": pl.UInt64,
}
