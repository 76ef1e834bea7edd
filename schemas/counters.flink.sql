-- Insert your brokers. `bytes`, `offset` and `partition` are reserved words of Flink:
-- quote them. Records come up to --interval and 40 seconds after their packets: where the
-- interval is over 5 seconds, let the watermark wait longer. A partition that is empty for
-- 10 seconds no longer holds it back: the counters of a host fill one partition only.
CREATE TABLE flowstream_counters (
  `record_type` SMALLINT COMMENT '3 = counters',
  `schema_version` SMALLINT COMMENT '1, a field is only ever added at the end',
  `agent_epoch` BIGINT COMMENT 'Unix ns at which this agent run began, a multiple of 1,024: with host_id it names the run',
  `host_id` STRING COMMENT 'id of the host, derived from its machine id (machine-id(5))',
  `sampler_address` STRING COMMENT 'the agent''s own address (IPFIX 130, 131)',
  `seq` BIGINT COMMENT 'gapless per run and topic, from 0',
  `host` STRING COMMENT 'name of the host',
  `agent_version` STRING COMMENT 'version of flowstream',
  `if_index` BIGINT COMMENT 'index of the interface in its network namespace, where a run observes several, plus 2^24 times the number of the namespace',
  `if_name` STRING COMMENT 'name of the interface (IPFIX 82)',
  `flow_direction` SMALLINT COMMENT '0 ingress (received), 1 egress (sent) (IPFIX 61)',
  `program_name` STRING COMMENT 'name of the kernel program',
  `program_id` BIGINT COMMENT 'id of the kernel program, 0 when it has none',
  `attach_mode` STRING COMMENT 'attach mode in force',
  `time_unix_ns` BIGINT COMMENT 'Unix ns at which the counters were read',
  `time_boot_ns` BIGINT COMMENT 'the same moment in ns since boot',
  `interval_ns` BIGINT COMMENT 'ns between two records of a lasting flow',
  `counters_period_ns` BIGINT COMMENT 'ns between two counters records',
  `seen_packets` BIGINT COMMENT 'packets that the program saw',
  `seen_l2_bytes` BIGINT COMMENT 'their frame octets, without FCS',
  `no_flow` MAP<STRING, ROW<`packets` BIGINT, `l2_bytes` BIGINT>> COMMENT 'packets in no flow record, by reason: non_ip, malformed, ...',
  `losses` MAP<STRING, ROW<`records` BIGINT, `packets` BIGINT, `l2_bytes` BIGINT>> COMMENT 'records lost, by cause: overflow_lost, delivery_timeout, ...',
  `in_doubt` MAP<STRING, ROW<`records` BIGINT, `packets` BIGINT, `l2_bytes` BIGINT>> COMMENT 'records sent and never answered, by cause: only seq tells whether they arrived',
  `stages` MAP<STRING, ROW<`drained` BIGINT, `encoded` BIGINT, `queued` BIGINT, `acknowledged` BIGINT, `spooled` BIGINT, `failed` BIGINT, `aggregated` BIGINT>> COMMENT 'records of each topic that passed each stage: flows, new_flows',
  `table_entries` BIGINT COMMENT 'flows in the table when it was read',
  `table_capacity` BIGINT COMMENT 'flows that the table can hold',
  `table_swaps` BIGINT COMMENT 'times that the table was swapped',
  `final` BOOLEAN COMMENT 'true in the last record of a run, or of an interface that went',
  `spool` ROW<`records` BIGINT, `packets` BIGINT, `l2_bytes` BIGINT, `octets` BIGINT, `oldest_ns` BIGINT> COMMENT 'records that wait on disk to be published',
  `netns` STRING COMMENT 'network namespace as given to --netns, empty: the agent''s own',
  `previous_epoch` BIGINT COMMENT 'agent_epoch of the run whose link on this interface this run took over without a gap, 0 for none',
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  `event_time` AS TO_TIMESTAMP_LTZ(`time_unix_ns` / 1000000, 3),
  WATERMARK FOR `event_time` AS `event_time` - INTERVAL '45' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'flowstream.counters',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.group.id' = 'flowstream-flink',
  'scan.startup.mode' = 'earliest-offset',
  'scan.watermark.idle-timeout' = '10 s',
  'format' = 'json'
);
