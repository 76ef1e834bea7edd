-- Put your brokers in. For a stream, read the topic with spark.readStream and
-- apply the same from_json.
CREATE OR REPLACE TEMPORARY VIEW flowstream_counters_topic
USING kafka
OPTIONS (
  'kafka.bootstrap.servers' 'localhost:9092',
  'subscribe' 'flowstream.counters',
  'startingOffsets' 'earliest'
);

CREATE OR REPLACE TEMPORARY VIEW flowstream_counters AS
SELECT record.*, timestamp_micros(record.time_unix_ns DIV 1000) AS event_time
FROM (
  SELECT from_json(CAST(value AS STRING), '
    `record_type` SMALLINT,
    `schema_version` SMALLINT,
    `agent_epoch` BIGINT,
    `host_id` STRING,
    `seq` BIGINT,
    `host` STRING,
    `in_if` BIGINT,
    `in_if_name` STRING,
    `program_name` STRING,
    `program_id` BIGINT,
    `xdp_mode` STRING,
    `time_unix_ns` BIGINT,
    `time_boot_ns` BIGINT,
    `rx_packets` BIGINT,
    `rx_bytes` BIGINT,
    `non_ip_packets` BIGINT,
    `non_ip_bytes` BIGINT,
    `malformed_packets` BIGINT,
    `malformed_bytes` BIGINT,
    `sampled_out_packets` BIGINT,
    `sampled_out_bytes` BIGINT,
    `counted_packets` BIGINT,
    `counted_bytes` BIGINT,
    `losses` MAP<STRING, STRUCT<`records`: BIGINT, `packets`: BIGINT, `bytes`: BIGINT>>,
    `flows` STRUCT<`drained`: BIGINT, `encoded`: BIGINT, `queued`: BIGINT, `acknowledged`: BIGINT, `spooled`: BIGINT, `failed`: BIGINT>,
    `new_flows` STRUCT<`drained`: BIGINT, `encoded`: BIGINT, `queued`: BIGINT, `acknowledged`: BIGINT, `spooled`: BIGINT, `failed`: BIGINT>,
    `table_entries` BIGINT,
    `table_capacity` BIGINT,
    `table_swaps` BIGINT,
    `final` BOOLEAN
  ', map('mode', 'FAILFAST')) AS record
  FROM flowstream_counters_topic
);
