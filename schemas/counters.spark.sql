-- Put your brokers in. For a stream, make flowstream_counters_topic of
-- spark.readStream.format("kafka"). A value that is no such record is an error.
CREATE OR REPLACE TEMPORARY VIEW flowstream_counters_topic
USING kafka
OPTIONS (
  'kafka.bootstrap.servers' 'localhost:9092',
  'subscribe' 'flowstream.counters',
  'startingOffsets' 'earliest'
);

CREATE OR REPLACE TEMPORARY VIEW flowstream_counters AS
SELECT record.*, timestamp_micros(record.time_unix_ns DIV 1000) AS event_time, partition, offset
FROM (
  SELECT partition, offset, CASE
    WHEN record.record_type = 3 AND record.schema_version = 1
      AND record.agent_epoch IS NOT NULL
      AND record.host_id IS NOT NULL
      AND record.seq IS NOT NULL
      AND record.host IS NOT NULL
      AND record.in_if IS NOT NULL
      AND record.in_if_name IS NOT NULL
      AND record.program_name IS NOT NULL
      AND record.program_id IS NOT NULL
      AND record.xdp_mode IS NOT NULL
      AND record.time_unix_ns IS NOT NULL
      AND record.time_boot_ns IS NOT NULL
      AND record.rx_packets IS NOT NULL
      AND record.rx_bytes IS NOT NULL
      AND record.non_ip_packets IS NOT NULL
      AND record.non_ip_bytes IS NOT NULL
      AND record.malformed_packets IS NOT NULL
      AND record.malformed_bytes IS NOT NULL
      AND record.sampled_out_packets IS NOT NULL
      AND record.sampled_out_bytes IS NOT NULL
      AND record.counted_packets IS NOT NULL
      AND record.counted_bytes IS NOT NULL
      AND record.losses IS NOT NULL
      AND record.flows IS NOT NULL
      AND record.new_flows IS NOT NULL
      AND record.table_entries IS NOT NULL
      AND record.table_capacity IS NOT NULL
      AND record.table_swaps IS NOT NULL
      AND record.final IS NOT NULL
    THEN record
    ELSE raise_error(format_string(
      '%s, partition %d, offset %d: not a JSON record of schema version 1',
      topic, partition, offset))
    END AS record
  FROM (
    SELECT topic, partition, offset, from_json(CAST(value AS STRING), '
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
    ') AS record
    FROM flowstream_counters_topic
  )
);
