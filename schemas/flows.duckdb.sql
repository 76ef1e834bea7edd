-- Insert your file of JSON lines. Any other line is an error that names it.
CREATE OR REPLACE VIEW flowstream_flows AS
SELECT make_timestamp_ns(time_flow_end_ns::BIGINT) AS event_time, lines.*
FROM (
  SELECT row_number() OVER () AS line, *
  FROM read_json('flowstream_flows.jsonl', format = 'newline_delimited', columns = {
    'record_type': 'UTINYINT',
    'schema_version': 'UTINYINT',
    'agent_epoch': 'UBIGINT',
    'host_id': 'VARCHAR',
    'host': 'VARCHAR',
    'sampler_address': 'VARCHAR',
    'seq': 'UBIGINT',
    'time_received_ns': 'UBIGINT',
    'time_flow_start_ns': 'UBIGINT',
    'time_flow_end_ns': 'UBIGINT',
    'etype': 'USMALLINT',
    'proto': 'UTINYINT',
    'src_addr': 'VARCHAR',
    'dst_addr': 'VARCHAR',
    'src_net': 'UTINYINT',
    'dst_net': 'UTINYINT',
    'src_port': 'USMALLINT',
    'dst_port': 'USMALLINT',
    'icmp_type': 'UTINYINT',
    'icmp_code': 'UTINYINT',
    'tcp_flags': 'UTINYINT',
    'ip_tos': 'UTINYINT',
    'ip_ttl': 'UTINYINT',
    'vlan_id': 'USMALLINT',
    'if_index': 'UINTEGER',
    'if_name': 'VARCHAR',
    'in_if': 'UINTEGER',
    'out_if': 'UINTEGER',
    'src_mac': 'VARCHAR',
    'dst_mac': 'VARCHAR',
    'packets': 'UBIGINT',
    'bytes': 'UBIGINT',
    'l2_bytes': 'UBIGINT',
    'flow_count': 'UINTEGER',
    'sampling_rate': 'UINTEGER',
    'end_reason': 'UTINYINT',
    'flow_direction': 'UTINYINT',
    'community_id': 'VARCHAR'
  })
) AS lines
WHERE CASE
  WHEN record_type = 1 AND schema_version = 1
    AND agent_epoch IS NOT NULL
    AND host_id IS NOT NULL
    AND host IS NOT NULL
    AND sampler_address IS NOT NULL
    AND seq IS NOT NULL
    AND time_received_ns IS NOT NULL
    AND time_flow_start_ns IS NOT NULL
    AND time_flow_end_ns IS NOT NULL
    AND etype IS NOT NULL
    AND proto IS NOT NULL
    AND src_addr IS NOT NULL
    AND dst_addr IS NOT NULL
    AND src_net IS NOT NULL
    AND dst_net IS NOT NULL
    AND src_port IS NOT NULL
    AND dst_port IS NOT NULL
    AND icmp_type IS NOT NULL
    AND icmp_code IS NOT NULL
    AND tcp_flags IS NOT NULL
    AND ip_tos IS NOT NULL
    AND ip_ttl IS NOT NULL
    AND vlan_id IS NOT NULL
    AND if_index IS NOT NULL
    AND if_name IS NOT NULL
    AND in_if IS NOT NULL
    AND out_if IS NOT NULL
    AND src_mac IS NOT NULL
    AND dst_mac IS NOT NULL
    AND packets IS NOT NULL
    AND bytes IS NOT NULL
    AND l2_bytes IS NOT NULL
    AND flow_count IS NOT NULL
    AND sampling_rate IS NOT NULL
    AND end_reason IS NOT NULL
    AND flow_direction IS NOT NULL
  THEN true
  ELSE error('flowstream_flows.jsonl: line ' || line || ': not a JSON record of schema version 1')
END;
