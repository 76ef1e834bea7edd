-- Insert your brokers. For a stream, make flowstream_flows_topic from
-- spark.readStream.format("kafka"). Any other value is an error.
CREATE OR REPLACE TEMPORARY VIEW flowstream_flows_topic
USING kafka
OPTIONS (
  'kafka.bootstrap.servers' 'localhost:9092',
  'subscribe' 'flowstream.flows',
  'startingOffsets' 'earliest'
);

CREATE OR REPLACE TEMPORARY VIEW flowstream_flows AS
SELECT record.*, timestamp_micros(record.time_flow_end_ns DIV 1000) AS event_time, partition, offset
FROM (
  SELECT partition, offset, CASE
    WHEN record.record_type = 1 AND record.schema_version = 1
      AND record.agent_epoch IS NOT NULL
      AND record.host_id IS NOT NULL
      AND record.host IS NOT NULL
      AND record.sampler_address IS NOT NULL
      AND record.seq IS NOT NULL
      AND record.time_received_ns IS NOT NULL
      AND record.time_flow_start_ns IS NOT NULL
      AND record.time_flow_end_ns IS NOT NULL
      AND record.etype IS NOT NULL
      AND record.proto IS NOT NULL
      AND record.src_addr IS NOT NULL
      AND record.dst_addr IS NOT NULL
      AND record.src_net IS NOT NULL
      AND record.dst_net IS NOT NULL
      AND record.src_port IS NOT NULL
      AND record.dst_port IS NOT NULL
      AND record.icmp_type IS NOT NULL
      AND record.icmp_code IS NOT NULL
      AND record.tcp_flags IS NOT NULL
      AND record.ip_tos IS NOT NULL
      AND record.ip_ttl IS NOT NULL
      AND record.vlan_id IS NOT NULL
      AND record.if_index IS NOT NULL
      AND record.if_name IS NOT NULL
      AND record.in_if IS NOT NULL
      AND record.out_if IS NOT NULL
      AND record.src_mac IS NOT NULL
      AND record.dst_mac IS NOT NULL
      AND record.packets IS NOT NULL
      AND record.bytes IS NOT NULL
      AND record.l2_bytes IS NOT NULL
      AND record.flow_count IS NOT NULL
      AND record.sampling_rate IS NOT NULL
      AND record.end_reason IS NOT NULL
      AND record.flow_direction IS NOT NULL
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
      `host` STRING,
      `sampler_address` STRING,
      `seq` BIGINT,
      `time_received_ns` BIGINT,
      `time_flow_start_ns` BIGINT,
      `time_flow_end_ns` BIGINT,
      `etype` INT,
      `proto` SMALLINT,
      `src_addr` STRING,
      `dst_addr` STRING,
      `src_net` SMALLINT,
      `dst_net` SMALLINT,
      `src_port` INT,
      `dst_port` INT,
      `icmp_type` SMALLINT,
      `icmp_code` SMALLINT,
      `tcp_flags` SMALLINT,
      `ip_tos` SMALLINT,
      `ip_ttl` SMALLINT,
      `vlan_id` INT,
      `if_index` BIGINT,
      `if_name` STRING,
      `in_if` BIGINT,
      `out_if` BIGINT,
      `src_mac` STRING,
      `dst_mac` STRING,
      `packets` BIGINT,
      `bytes` BIGINT,
      `l2_bytes` BIGINT,
      `flow_count` BIGINT,
      `sampling_rate` BIGINT,
      `end_reason` SMALLINT,
      `flow_direction` SMALLINT,
      `community_id` STRING
    ') AS record
    FROM flowstream_flows_topic
  )
);
