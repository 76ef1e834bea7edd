-- The topic's JSON as it comes. Put your brokers in. Reading stops at a value that is no
-- such record: system.kafka_consumers has the error, "flowstream audit" names the offset.
CREATE TABLE flowstream_counters_queue
(
    `record_type` UInt8,
    `schema_version` UInt8,
    `agent_epoch` UInt64,
    `host_id` String,
    `seq` UInt64,
    `host` String,
    `in_if` UInt32,
    `in_if_name` String,
    `program_name` String,
    `program_id` UInt32,
    `xdp_mode` String,
    `time_unix_ns` UInt64,
    `time_boot_ns` UInt64,
    `rx_packets` UInt64,
    `rx_bytes` UInt64,
    `non_ip_packets` UInt64,
    `non_ip_bytes` UInt64,
    `malformed_packets` UInt64,
    `malformed_bytes` UInt64,
    `sampled_out_packets` UInt64,
    `sampled_out_bytes` UInt64,
    `counted_packets` UInt64,
    `counted_bytes` UInt64,
    `losses` Map(String, Tuple(`records` UInt64, `packets` UInt64, `bytes` UInt64)),
    `flows` Tuple(`drained` UInt64, `encoded` UInt64, `queued` UInt64, `acknowledged` UInt64, `spooled` UInt64, `failed` UInt64),
    `new_flows` Tuple(`drained` UInt64, `encoded` UInt64, `queued` UInt64, `acknowledged` UInt64, `spooled` UInt64, `failed` UInt64),
    `table_entries` UInt64,
    `table_capacity` UInt64,
    `table_swaps` UInt64,
    `final` Bool
)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'localhost:9092',
         kafka_topic_list = 'flowstream.counters',
         kafka_group_name = 'flowstream-clickhouse',
         kafka_format = 'JSONEachRow',
         input_format_skip_unknown_fields = 1;

-- A record that came twice is one row once parts are merged, or with FINAL.
CREATE TABLE flowstream_counters
(
    `record_type` UInt8 COMMENT '3 = counters',
    `schema_version` UInt8 COMMENT '1; a field is only ever added at the end',
    `agent_epoch` UInt64 COMMENT 'Unix ns at which this agent run began: with host_id it names the run',
    `host_id` LowCardinality(String) COMMENT 'machine id of the host (/etc/machine-id)',
    `seq` UInt64 COMMENT 'gapless per run and topic, from 0',
    `host` LowCardinality(String) COMMENT 'name of the host',
    `in_if` UInt32 COMMENT 'index of the interface',
    `in_if_name` LowCardinality(String) COMMENT 'name of the interface',
    `program_name` LowCardinality(String) COMMENT 'name of the kernel program',
    `program_id` UInt32 COMMENT 'id of the kernel program, 0 when it has none',
    `xdp_mode` LowCardinality(String) COMMENT 'attach mode in force',
    `time_unix_ns` DateTime64(9, 'UTC') COMMENT 'Unix ns at which the counters were read',
    `time_boot_ns` UInt64 COMMENT 'the same moment in ns since boot',
    `rx_packets` UInt64 COMMENT 'packets that the program saw',
    `rx_bytes` UInt64 COMMENT 'frame octets that the program saw',
    `non_ip_packets` UInt64 COMMENT 'packets that are neither IPv4 nor IPv6',
    `non_ip_bytes` UInt64 COMMENT 'frame octets of non_ip_packets',
    `malformed_packets` UInt64 COMMENT 'packets cut or with a false header',
    `malformed_bytes` UInt64 COMMENT 'frame octets of malformed_packets',
    `sampled_out_packets` UInt64 COMMENT 'packets that sampling passed over',
    `sampled_out_bytes` UInt64 COMMENT 'frame octets of sampled_out_packets',
    `counted_packets` UInt64 COMMENT 'packets counted without flow records; 0 for xdp_flow',
    `counted_bytes` UInt64 COMMENT 'frame octets of counted_packets',
    `losses` Map(String, Tuple(`records` UInt64, `packets` UInt64, `bytes` UInt64)) COMMENT 'every loss under its cause, such as overflow_lost, delivery_timeout',
    `flows` Tuple(`drained` UInt64, `encoded` UInt64, `queued` UInt64, `acknowledged` UInt64, `spooled` UInt64, `failed` UInt64) COMMENT 'stages of the topic flows',
    `new_flows` Tuple(`drained` UInt64, `encoded` UInt64, `queued` UInt64, `acknowledged` UInt64, `spooled` UInt64, `failed` UInt64) COMMENT 'stages of the topic new_flows',
    `table_entries` UInt64 COMMENT 'flows in the table when it was read',
    `table_capacity` UInt64 COMMENT 'flows that the table can hold',
    `table_swaps` UInt64 COMMENT 'times that the table was swapped',
    `final` Bool COMMENT 'true in the last record of a run'
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(time_unix_ns)
ORDER BY (time_unix_ns, host_id, agent_epoch, seq);

CREATE MATERIALIZED VIEW flowstream_counters_view TO flowstream_counters AS
SELECT
    `record_type`,
    `schema_version`,
    `agent_epoch`,
    `host_id`,
    `seq`,
    `host`,
    `in_if`,
    `in_if_name`,
    `program_name`,
    `program_id`,
    `xdp_mode`,
    fromUnixTimestamp64Nano(toInt64(`time_unix_ns`), 'UTC') AS `time_unix_ns`,
    `time_boot_ns`,
    `rx_packets`,
    `rx_bytes`,
    `non_ip_packets`,
    `non_ip_bytes`,
    `malformed_packets`,
    `malformed_bytes`,
    `sampled_out_packets`,
    `sampled_out_bytes`,
    `counted_packets`,
    `counted_bytes`,
    `losses`,
    `flows`,
    `new_flows`,
    `table_entries`,
    `table_capacity`,
    `table_swaps`,
    `final`
FROM flowstream_counters_queue
WHERE throwIf(
    record_type != 3 OR schema_version != 1,
    'flowstream.counters: not a record of schema version 1') = 0;
