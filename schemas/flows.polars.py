"""Types of flowstream.flows for polars 2 or later.

::

    pl.scan_ndjson("flowstream_flows.jsonl", schema=SCHEMA)

Check that record_type is 1 and schema_version 1: polars does not.
"""

import polars as pl

SCHEMA = {
    "record_type": pl.UInt32,
    "schema_version": pl.UInt32,
    "agent_epoch": pl.UInt64,
    "host_id": pl.String,
    "host": pl.String,
    "sampler_address": pl.String,
    "seq": pl.UInt64,
    "time_received_ns": pl.UInt64,
    "time_flow_start_ns": pl.UInt64,
    "time_flow_end_ns": pl.UInt64,
    "etype": pl.UInt32,
    "proto": pl.UInt32,
    "src_addr": pl.String,
    "dst_addr": pl.String,
    "src_net": pl.UInt32,
    "dst_net": pl.UInt32,
    "src_port": pl.UInt32,
    "dst_port": pl.UInt32,
    "icmp_type": pl.UInt32,
    "icmp_code": pl.UInt32,
    "tcp_flags": pl.UInt32,
    "ip_tos": pl.UInt32,
    "ip_ttl": pl.UInt32,
    "vlan_id": pl.UInt32,
    "if_index": pl.UInt32,
    "if_name": pl.String,
    "in_if": pl.UInt32,
    "out_if": pl.UInt32,
    "src_mac": pl.String,
    "dst_mac": pl.String,
    "packets": pl.UInt64,
    "bytes": pl.UInt64,
    "l2_bytes": pl.UInt64,
    "flow_count": pl.UInt32,
    "sampling_rate": pl.UInt32,
    "end_reason": pl.UInt32,
    "flow_direction": pl.UInt32,
    "community_id": pl.String,
}
