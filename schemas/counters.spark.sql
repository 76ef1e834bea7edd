-- Insert your brokers. For a stream, make flowstream_counters_topic from
-- spark.readStream.format("kafka"). Any other value is an error.
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
      AND record.sampler_address IS NOT NULL
      AND record.seq IS NOT NULL
      AND record.host IS NOT NULL
      AND record.agent_version IS NOT NULL
      AND record.if_index IS NOT NULL
      AND record.if_name IS NOT NULL
      AND record.flow_direction IS NOT NULL
      AND record.program_name IS NOT NULL
      AND record.program_id IS NOT NULL
      AND record.attach_mode IS NOT NULL
      AND record.time_unix_ns IS NOT NULL
      AND record.time_boot_ns IS NOT NULL
      AND record.interval_ns IS NOT NULL
      AND record.counters_period_ns IS NOT NULL
      AND record.seen_packets IS NOT NULL
      AND record.seen_l2_bytes IS NOT NULL
      AND record.no_flow IS NOT NULL
      AND record.losses IS NOT NULL
      AND record.in_doubt IS NOT NULL
      AND record.stages IS NOT NULL
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
      `sampler_address` STRING,
      `seq` BIGINT,
      `host` STRING,
      `agent_version` STRING,
      `if_index` BIGINT,
      `if_name` STRING,
      `flow_direction` SMALLINT,
      `program_name` STRING,
      `program_id` BIGINT,
      `attach_mode` STRING,
      `time_unix_ns` BIGINT,
      `time_boot_ns` BIGINT,
      `interval_ns` BIGINT,
      `counters_period_ns` BIGINT,
      `seen_packets` BIGINT,
      `seen_l2_bytes` BIGINT,
      `no_flow` MAP<STRING, STRUCT<`packets`: BIGINT, `l2_bytes`: BIGINT>>,
      `losses` MAP<STRING, STRUCT<`records`: BIGINT, `packets`: BIGINT, `l2_bytes`: BIGINT>>,
      `in_doubt` MAP<STRING, STRUCT<`records`: BIGINT, `packets`: BIGINT, `l2_bytes`: BIGINT>>,
      `stages` MAP<STRING, STRUCT<`drained`: BIGINT, `encoded`: BIGINT, `queued`: BIGINT, `acknowledged`: BIGINT, `spooled`: BIGINT, `failed`: BIGINT, `aggregated`: BIGINT>>,
      `table_entries` BIGINT,
      `table_capacity` BIGINT,
      `table_swaps` BIGINT,
      `final` BOOLEAN,
      `spool` STRUCT<`records`: BIGINT, `packets`: BIGINT, `l2_bytes`: BIGINT, `octets`: BIGINT, `oldest_ns`: BIGINT>,
      `netns` STRING,
      `previous_epoch` BIGINT
    ') AS record
    FROM flowstream_counters_topic
  )
);
