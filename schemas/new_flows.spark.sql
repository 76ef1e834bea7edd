-- Put your brokers in. For a stream, read the topic with spark.readStream and
-- apply the same from_json.
CREATE OR REPLACE TEMPORARY VIEW flowstream_new_flows_topic
USING kafka
OPTIONS (
  'kafka.bootstrap.servers' 'localhost:9092',
  'subscribe' 'flowstream.new_flows',
  'startingOffsets' 'earliest'
);

CREATE OR REPLACE TEMPORARY VIEW flowstream_new_flows AS
SELECT record.*, timestamp_micros(record.time_flow_end_ns DIV 1000) AS event_time
FROM (
  SELECT from_json(CAST(value AS STRING), '
    `record_type` SMALLINT,
    `schema_version` SMALLINT,
    `agent_epoch` BIGINT,
    `host_id` STRING,
    `host` STRING,
    `seq` BIGINT,
    `time_received_ns` BIGINT,
    `time_flow_start_ns` BIGINT,
    `time_flow_end_ns` BIGINT,
    `etype` INT,
    `proto` SMALLINT,
    `src_addr` STRING,
    `dst_addr` STRING,
    `src_port` INT,
    `dst_port` INT,
    `icmp_type` SMALLINT,
    `icmp_code` SMALLINT,
    `tcp_flags` SMALLINT,
    `ip_tos` SMALLINT,
    `ip_ttl` SMALLINT,
    `vlan_id` INT,
    `in_if` BIGINT,
    `in_if_name` STRING,
    `src_mac` STRING,
    `dst_mac` STRING,
    `packets` BIGINT,
    `bytes` BIGINT,
    `l2_bytes` BIGINT,
    `sampling_rate` BIGINT,
    `end_reason` SMALLINT,
    `flow_direction` SMALLINT,
    `community_id` STRING
  ', map('mode', 'FAILFAST')) AS record
  FROM flowstream_new_flows_topic
);
