-- The topic's Protobuf. Insert your brokers. Reading stops at any other value:
-- system.kafka_consumers has the error, "flowstream audit" names the offset.
-- The server needs counters.proto in its format_schema_path, and values without a prefix of a
-- registry.
CREATE TABLE flowstream_counters_queue
(
    `record_type` UInt8,
    `schema_version` UInt8,
    `agent_epoch` UInt64,
    `host_id` String,
    `sampler_address` String,
    `seq` UInt64,
    `host` String,
    `agent_version` String,
    `if_index` UInt32,
    `if_name` String,
    `flow_direction` UInt8,
    `program_name` String,
    `program_id` UInt32,
    `attach_mode` String,
    `time_unix_ns` UInt64,
    `time_boot_ns` UInt64,
    `interval_ns` UInt64,
    `counters_period_ns` UInt64,
    `seen_packets` UInt64,
    `seen_l2_bytes` UInt64,
    `no_flow` Map(String, Tuple(`packets` UInt64, `l2_bytes` UInt64)),
    `losses` Map(String, Tuple(`records` UInt64, `packets` UInt64, `l2_bytes` UInt64)),
    `in_doubt` Map(String, Tuple(`records` UInt64, `packets` UInt64, `l2_bytes` UInt64)),
    `stages` Map(String, Tuple(`drained` UInt64, `encoded` UInt64, `queued` UInt64, `acknowledged` UInt64, `spooled` UInt64, `failed` UInt64, `aggregated` UInt64)),
    `table_entries` UInt64,
    `table_capacity` UInt64,
    `table_swaps` UInt64,
    `final` Bool,
    `spool` Tuple(`records` UInt64, `packets` UInt64, `l2_bytes` UInt64, `octets` UInt64, `oldest_ns` UInt64),
    `netns` String,
    `previous_epoch` UInt64
)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'localhost:9092',
         kafka_topic_list = 'flowstream.counters',
         kafka_group_name = 'flowstream-clickhouse',
         kafka_format = 'Protobuf',
         kafka_schema = 'counters:CountersMessage';

-- Duplicates become one row when parts are merged, or with FINAL.
-- Addresses of IPv4 are ::ffff:10.0.0.1 there, and so is their toString.
-- As text, 10.0.0.1, they are sampler_ip.
CREATE TABLE flowstream_counters
(
    `record_type` UInt8 COMMENT '3 = counters',
    `schema_version` UInt8 COMMENT '1, a field is only ever added at the end',
    `agent_epoch` UInt64 COMMENT 'Unix ns at which this agent run began, a multiple of 1,024: with host_id it names the run',
    `host_id` LowCardinality(String) COMMENT 'id of the host, derived from its machine id (machine-id(5))',
    `sampler_address` IPv6 COMMENT 'the agent''s own address (IPFIX 130, 131)',
    `seq` UInt64 COMMENT 'gapless per run and topic, from 0',
    `host` LowCardinality(String) COMMENT 'name of the host',
    `agent_version` LowCardinality(String) COMMENT 'version of flowstream',
    `if_index` UInt32 COMMENT 'index of the interface in its network namespace, where a run observes several, plus 2^24 times the number of the namespace',
    `if_name` LowCardinality(String) COMMENT 'name of the interface (IPFIX 82)',
    `flow_direction` UInt8 COMMENT '0 ingress (received), 1 egress (sent) (IPFIX 61)',
    `program_name` LowCardinality(String) COMMENT 'name of the kernel program',
    `program_id` UInt32 COMMENT 'id of the kernel program, 0 when it has none',
    `attach_mode` LowCardinality(String) COMMENT 'attach mode in force',
    `time_unix_ns` DateTime64(9, 'UTC') COMMENT 'Unix ns at which the counters were read',
    `time_boot_ns` UInt64 COMMENT 'the same moment in ns since boot',
    `interval_ns` UInt64 COMMENT 'ns between two records of a lasting flow',
    `counters_period_ns` UInt64 COMMENT 'ns between two counters records',
    `seen_packets` UInt64 COMMENT 'packets that the program saw',
    `seen_l2_bytes` UInt64 COMMENT 'their frame octets, without FCS',
    `no_flow` Map(String, Tuple(`packets` UInt64, `l2_bytes` UInt64)) COMMENT 'packets in no flow record, by reason: non_ip, malformed, ...',
    `losses` Map(String, Tuple(`records` UInt64, `packets` UInt64, `l2_bytes` UInt64)) COMMENT 'records lost, by cause: overflow_lost, delivery_timeout, ...',
    `in_doubt` Map(String, Tuple(`records` UInt64, `packets` UInt64, `l2_bytes` UInt64)) COMMENT 'records sent and never answered, by cause: only seq tells whether they arrived',
    `stages` Map(String, Tuple(`drained` UInt64, `encoded` UInt64, `queued` UInt64, `acknowledged` UInt64, `spooled` UInt64, `failed` UInt64, `aggregated` UInt64)) COMMENT 'records of each topic that passed each stage: flows, new_flows',
    `table_entries` UInt64 COMMENT 'flows in the table when it was read',
    `table_capacity` UInt64 COMMENT 'flows that the table can hold',
    `table_swaps` UInt64 COMMENT 'times that the table was swapped',
    `final` Bool COMMENT 'true in the last record of a run, or of an interface that went',
    `spool` Tuple(`records` UInt64, `packets` UInt64, `l2_bytes` UInt64, `octets` UInt64, `oldest_ns` UInt64) COMMENT 'records that wait on disk to be published',
    `netns` LowCardinality(String) COMMENT 'network namespace as given to --netns, empty: the agent''s own',
    `previous_epoch` UInt64 COMMENT 'agent_epoch of the run whose link on this interface this run took over without a gap, 0 for none',
    `sampler_ip` String ALIAS replaceRegexpOne(toString(`sampler_address`), '^::ffff:([0-9.]+)$', '\\1')
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(time_unix_ns)
ORDER BY (time_unix_ns, host_id, agent_epoch, seq);

CREATE MATERIALIZED VIEW flowstream_counters_view TO flowstream_counters AS
SELECT
    `record_type`,
    `schema_version`,
    `agent_epoch`,
    lower(hex(`host_id`)) AS `host_id`,
    toIPv6(IPv6NumToString(toFixedString(if(length(`sampler_address`) = 4, concat(unhex('00000000000000000000ffff'), `sampler_address`), `sampler_address`), 16))) AS `sampler_address`,
    `seq`,
    `host`,
    `agent_version`,
    `if_index`,
    `if_name`,
    `flow_direction`,
    `program_name`,
    `program_id`,
    `attach_mode`,
    fromUnixTimestamp64Nano(toInt64(`time_unix_ns`), 'UTC') AS `time_unix_ns`,
    `time_boot_ns`,
    `interval_ns`,
    `counters_period_ns`,
    `seen_packets`,
    `seen_l2_bytes`,
    `no_flow`,
    `losses`,
    `in_doubt`,
    `stages`,
    `table_entries`,
    `table_capacity`,
    `table_swaps`,
    `final`,
    `spool`,
    `netns`,
    `previous_epoch`
FROM flowstream_counters_queue
WHERE throwIf(
    record_type != 3 OR schema_version != 1,
    'flowstream.counters: not a record of schema version 1') = 0;
