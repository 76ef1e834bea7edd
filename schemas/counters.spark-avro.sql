-- Insert your brokers and the schema's id. For a stream, make flowstream_counters_topic from
-- spark.readStream.format("kafka"). Any other value is an error.
-- X'0000000001' is what stands before each value: 0 and the schema's id in 4 octets,
-- of http://REGISTRY/subjects/flowstream.counters-value/versions/latest. Needs
-- org.apache.spark:spark-avro_2.13 of Spark's version.
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
      '%s, partition %d, offset %d: not an Avro record of schema version 1',
      topic, partition, offset))
    END AS record
  FROM (
    SELECT topic, partition, offset, IF(
      substring(value, 1, 5) = X'0000000001',
      from_avro(substring(value, 6), '
      {"namespace": "flowstream", "type": "record", "name": "CountersRecord", "fields": [
        {"name": "record_type", "type": "int"},
        {"name": "schema_version", "type": "int"},
        {"name": "agent_epoch", "type": "long"},
        {"name": "host_id", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "sampler_address", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "seq", "type": "long"},
        {"name": "host", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "agent_version", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "if_index", "type": "long"},
        {"name": "if_name", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "flow_direction", "type": "int"},
        {"name": "program_name", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "program_id", "type": "long"},
        {"name": "attach_mode", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "time_unix_ns", "type": "long"},
        {"name": "time_boot_ns", "type": "long"},
        {"name": "interval_ns", "type": "long"},
        {"name": "counters_period_ns", "type": "long"},
        {"name": "seen_packets", "type": "long"},
        {"name": "seen_l2_bytes", "type": "long"},
        {"name": "no_flow", "type": {"type": "map", "values": {"type": "record", "name": "Amount", "fields": [{"name": "packets", "type": "long"}, {"name": "l2_bytes", "type": "long"}]}, "avro.java.string": "String"}},
        {"name": "losses", "type": {"type": "map", "values": {"type": "record", "name": "Loss", "fields": [{"name": "records", "type": "long"}, {"name": "packets", "type": "long"}, {"name": "l2_bytes", "type": "long"}]}, "avro.java.string": "String"}},
        {"name": "in_doubt", "type": {"type": "map", "values": "Loss", "avro.java.string": "String"}},
        {"name": "stages", "type": {"type": "map", "values": {"type": "record", "name": "StageCounts", "fields": [{"name": "drained", "type": "long"}, {"name": "encoded", "type": "long"}, {"name": "queued", "type": "long"}, {"name": "acknowledged", "type": "long"}, {"name": "spooled", "type": "long"}, {"name": "failed", "type": "long"}, {"name": "aggregated", "type": "long"}]}, "avro.java.string": "String"}},
        {"name": "table_entries", "type": "long"},
        {"name": "table_capacity", "type": "long"},
        {"name": "table_swaps", "type": "long"},
        {"name": "final", "type": "boolean"},
        {"name": "spool", "type": {"type": "record", "name": "SpoolCounts", "fields": [{"name": "records", "type": "long"}, {"name": "packets", "type": "long"}, {"name": "l2_bytes", "type": "long"}, {"name": "octets", "type": "long"}, {"name": "oldest_ns", "type": "long"}]}, "default": {"records": 0, "packets": 0, "l2_bytes": 0, "octets": 0, "oldest_ns": 0}},
        {"name": "netns", "type": {"type": "string", "avro.java.string": "String"}, "default": ""},
        {"name": "previous_epoch", "type": "long", "default": 0}
      ]}
      ', map('mode', 'PERMISSIVE')),
      NULL) AS record
    FROM flowstream_counters_topic
  )
);
