-- The topic's JSON as it comes. Put your brokers in. Reading stops at a value that is no
-- such record: system.kafka_consumers has the error, "flowstream audit" names the offset.
CREATE TABLE flowstream_new_flows_queue
(
    `record_type` UInt8,
    `schema_version` UInt8,
    `agent_epoch` UInt64,
    `host_id` String,
    `host` String,
    `seq` UInt64,
    `time_received_ns` UInt64,
    `time_flow_start_ns` UInt64,
    `time_flow_end_ns` UInt64,
    `etype` UInt16,
    `proto` UInt8,
    `src_addr` String,
    `dst_addr` String,
    `src_port` UInt16,
    `dst_port` UInt16,
    `icmp_type` UInt8,
    `icmp_code` UInt8,
    `tcp_flags` UInt8,
    `ip_tos` UInt8,
    `ip_ttl` UInt8,
    `vlan_id` UInt16,
    `in_if` UInt32,
    `in_if_name` String,
    `src_mac` String,
    `dst_mac` String,
    `packets` UInt64,
    `bytes` UInt64,
    `l2_bytes` UInt64,
    `sampling_rate` UInt32,
    `end_reason` UInt8,
    `flow_direction` UInt8,
    `community_id` String
)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'localhost:9092',
         kafka_topic_list = 'flowstream.new_flows',
         kafka_group_name = 'flowstream-clickhouse',
         kafka_format = 'JSONEachRow',
         input_format_skip_unknown_fields = 1;

-- A record that came twice is one row once parts are merged, or with FINAL.
-- IPv4 addresses are shown as ::ffff:10.0.0.1; as 10.0.0.1 by
-- replaceRegexpOne(toString(src_addr), '^::ffff:([0-9.]+)$', '\\1').
CREATE TABLE flowstream_new_flows
(
    `record_type` UInt8 COMMENT '1 = flow, 2 = new_flow',
    `schema_version` UInt8 COMMENT '1; a field is only ever added at the end',
    `agent_epoch` UInt64 COMMENT 'Unix ns at which this agent run began: with host_id it names the run',
    `host_id` LowCardinality(String) COMMENT 'machine id of the host (/etc/machine-id)',
    `host` LowCardinality(String) COMMENT 'name of the host',
    `seq` UInt64 COMMENT 'gapless per run and topic, from 0: a missing number is a lost record, a repeated one a duplicate',
    `time_received_ns` DateTime64(9, 'UTC') COMMENT 'Unix ns at which the agent drained it',
    `time_flow_start_ns` DateTime64(9, 'UTC') COMMENT 'Unix ns of the record''s first packet (IPFIX 156)',
    `time_flow_end_ns` DateTime64(9, 'UTC') COMMENT 'Unix ns of the record''s last packet (IPFIX 157)',
    `etype` UInt16 COMMENT 'EtherType: 0x0800 IPv4, 0x86dd IPv6',
    `proto` UInt8 COMMENT 'IANA protocol number; for IPv6 the upper-layer header, extension headers walked (IPFIX 4)',
    `src_addr` IPv6 COMMENT 'source address (IPFIX 8, 27)',
    `dst_addr` IPv6 COMMENT 'destination address (IPFIX 12, 28)',
    `src_port` UInt16 COMMENT 'source port; 0 where the protocol has none and for fragments past the first (IPFIX 7)',
    `dst_port` UInt16 COMMENT 'destination port, as src_port (IPFIX 11)',
    `icmp_type` UInt8 COMMENT 'ICMP or ICMPv6 type, part of the flow''s key; else 0',
    `icmp_code` UInt8 COMMENT 'ICMP or ICMPv6 code, part of the flow''s key; else 0',
    `tcp_flags` UInt8 COMMENT 'OR of the RFC 9293 flag byte over the packets (IPFIX 6)',
    `ip_tos` UInt8 COMMENT 'whole TOS or traffic-class byte of the first packet (IPFIX 5)',
    `ip_ttl` UInt8 COMMENT 'smallest TTL or hop limit seen (IPFIX 52)',
    `vlan_id` UInt16 COMMENT 'outer 802.1Q or 802.1ad VLAN, 0 = untagged (IPFIX 58)',
    `in_if` UInt32 COMMENT 'index of the interface (IPFIX 10)',
    `in_if_name` LowCardinality(String) COMMENT 'name of the interface (IPFIX 82)',
    `src_mac` String COMMENT 'source MAC of the first packet (IPFIX 56)',
    `dst_mac` String COMMENT 'destination MAC of the first packet (IPFIX 57)',
    `packets` UInt64 COMMENT 'packets (IPFIX 2)',
    `bytes` UInt64 COMMENT 'IP octets (total length), without Ethernet header and padding (IPFIX 1)',
    `l2_bytes` UInt64 COMMENT 'frame octets as XDP saw them, without FCS',
    `sampling_rate` UInt32 COMMENT '1 = every packet, N = one in N',
    `end_reason` UInt8 COMMENT '2 interval over, 4 forced (shutdown, rotation), 5 lack of resources: the table was full and this packet had no entry; 0 in announcements (IPFIX 136)',
    `flow_direction` UInt8 COMMENT '0 ingress, 1 egress (IPFIX 61)',
    `community_id` String COMMENT 'Community ID version 1, seed 0; empty unless it was asked for'
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(time_received_ns)
ORDER BY (time_received_ns, host_id, agent_epoch, seq);

CREATE MATERIALIZED VIEW flowstream_new_flows_view TO flowstream_new_flows AS
SELECT
    `record_type`,
    `schema_version`,
    `agent_epoch`,
    `host_id`,
    `host`,
    `seq`,
    fromUnixTimestamp64Nano(toInt64(`time_received_ns`), 'UTC') AS `time_received_ns`,
    fromUnixTimestamp64Nano(toInt64(`time_flow_start_ns`), 'UTC') AS `time_flow_start_ns`,
    fromUnixTimestamp64Nano(toInt64(`time_flow_end_ns`), 'UTC') AS `time_flow_end_ns`,
    `etype`,
    `proto`,
    toIPv6(`src_addr`) AS `src_addr`,
    toIPv6(`dst_addr`) AS `dst_addr`,
    `src_port`,
    `dst_port`,
    `icmp_type`,
    `icmp_code`,
    `tcp_flags`,
    `ip_tos`,
    `ip_ttl`,
    `vlan_id`,
    `in_if`,
    `in_if_name`,
    `src_mac`,
    `dst_mac`,
    `packets`,
    `bytes`,
    `l2_bytes`,
    `sampling_rate`,
    `end_reason`,
    `flow_direction`,
    `community_id`
FROM flowstream_new_flows_queue
WHERE throwIf(
    record_type != 2 OR schema_version != 1,
    'flowstream.new_flows: not a record of schema version 1') = 0;
