-- Insert your brokers and the schema's id. For a stream, make flowstream_new_flows_topic from
-- spark.readStream.format("kafka"). Any other value is an error.
-- X'0000000001' is what stands before each value: 0 and the schema's id in 4 octets,
-- of http://REGISTRY/subjects/flowstream.new_flows-value/versions/latest. Needs
-- org.apache.spark:spark-avro_2.13 of Spark's version.
CREATE OR REPLACE TEMPORARY VIEW flowstream_new_flows_topic
USING kafka
OPTIONS (
  'kafka.bootstrap.servers' 'localhost:9092',
  'subscribe' 'flowstream.new_flows',
  'startingOffsets' 'earliest'
);

CREATE OR REPLACE TEMPORARY VIEW flowstream_new_flows AS
SELECT record.*, timestamp_micros(record.time_flow_end_ns DIV 1000) AS event_time, partition, offset
FROM (
  SELECT partition, offset, CASE
    WHEN record.record_type = 2 AND record.schema_version = 1
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
      '%s, partition %d, offset %d: not an Avro record of schema version 1',
      topic, partition, offset))
    END AS record
  FROM (
    SELECT topic, partition, offset, IF(
      substring(value, 1, 5) = X'0000000001',
      from_avro(substring(value, 6), '
      {"namespace": "flowstream", "type": "record", "name": "FlowRecord", "fields": [
        {"name": "record_type", "type": "int"},
        {"name": "schema_version", "type": "int"},
        {"name": "agent_epoch", "type": "long"},
        {"name": "host_id", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "host", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "sampler_address", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "seq", "type": "long"},
        {"name": "time_received_ns", "type": "long"},
        {"name": "time_flow_start_ns", "type": "long"},
        {"name": "time_flow_end_ns", "type": "long"},
        {"name": "etype", "type": "int"},
        {"name": "proto", "type": "int"},
        {"name": "src_addr", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "dst_addr", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "src_net", "type": "int"},
        {"name": "dst_net", "type": "int"},
        {"name": "src_port", "type": "int"},
        {"name": "dst_port", "type": "int"},
        {"name": "icmp_type", "type": "int"},
        {"name": "icmp_code", "type": "int"},
        {"name": "tcp_flags", "type": "int"},
        {"name": "ip_tos", "type": "int"},
        {"name": "ip_ttl", "type": "int"},
        {"name": "vlan_id", "type": "int"},
        {"name": "if_index", "type": "long"},
        {"name": "if_name", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "in_if", "type": "long"},
        {"name": "out_if", "type": "long"},
        {"name": "src_mac", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "dst_mac", "type": {"type": "string", "avro.java.string": "String"}},
        {"name": "packets", "type": "long"},
        {"name": "bytes", "type": "long"},
        {"name": "l2_bytes", "type": "long"},
        {"name": "flow_count", "type": "long"},
        {"name": "sampling_rate", "type": "long"},
        {"name": "end_reason", "type": "int"},
        {"name": "flow_direction", "type": "int"},
        {"name": "community_id", "type": {"type": "string", "avro.java.string": "String"}, "default": ""}
      ]}
      ', map('mode', 'PERMISSIVE')),
      NULL) AS record
    FROM flowstream_new_flows_topic
  )
);
