-- Maps are summed whole, whatever their keys:
-- list_sum(list_transform(map_values(losses), lambda loss: loss.packets))
-- Insert your file of JSON lines. Any other line is an error that names it.
CREATE OR REPLACE VIEW flowstream_counters AS
SELECT make_timestamp_ns(time_unix_ns::BIGINT) AS event_time, lines.*
FROM (
  SELECT row_number() OVER () AS line, *
  FROM read_json('flowstream_counters.jsonl', format = 'newline_delimited', columns = {
    'record_type': 'UTINYINT',
    'schema_version': 'UTINYINT',
    'agent_epoch': 'UBIGINT',
    'host_id': 'VARCHAR',
    'sampler_address': 'VARCHAR',
    'seq': 'UBIGINT',
    'host': 'VARCHAR',
    'agent_version': 'VARCHAR',
    'if_index': 'UINTEGER',
    'if_name': 'VARCHAR',
    'flow_direction': 'UTINYINT',
    'program_name': 'VARCHAR',
    'program_id': 'UINTEGER',
    'attach_mode': 'VARCHAR',
    'time_unix_ns': 'UBIGINT',
    'time_boot_ns': 'UBIGINT',
    'interval_ns': 'UBIGINT',
    'counters_period_ns': 'UBIGINT',
    'seen_packets': 'UBIGINT',
    'seen_l2_bytes': 'UBIGINT',
    'no_flow': 'MAP(VARCHAR, STRUCT(packets UBIGINT, l2_bytes UBIGINT))',
    'losses': 'MAP(VARCHAR, STRUCT(records UBIGINT, packets UBIGINT, l2_bytes UBIGINT))',
    'in_doubt': 'MAP(VARCHAR, STRUCT(records UBIGINT, packets UBIGINT, l2_bytes UBIGINT))',
    'stages': 'MAP(VARCHAR, STRUCT(drained UBIGINT, encoded UBIGINT, queued UBIGINT, acknowledged UBIGINT, spooled UBIGINT, failed UBIGINT, aggregated UBIGINT))',
    'table_entries': 'UBIGINT',
    'table_capacity': 'UBIGINT',
    'table_swaps': 'UBIGINT',
    'final': 'BOOLEAN',
    'spool': 'STRUCT(records UBIGINT, packets UBIGINT, l2_bytes UBIGINT, octets UBIGINT, oldest_ns UBIGINT)',
    'netns': 'VARCHAR',
    'previous_epoch': 'UBIGINT'
  })
) AS lines
WHERE CASE
  WHEN record_type = 3 AND schema_version = 1
    AND agent_epoch IS NOT NULL
    AND host_id IS NOT NULL
    AND sampler_address IS NOT NULL
    AND seq IS NOT NULL
    AND host IS NOT NULL
    AND agent_version IS NOT NULL
    AND if_index IS NOT NULL
    AND if_name IS NOT NULL
    AND flow_direction IS NOT NULL
    AND program_name IS NOT NULL
    AND program_id IS NOT NULL
    AND attach_mode IS NOT NULL
    AND time_unix_ns IS NOT NULL
    AND time_boot_ns IS NOT NULL
    AND interval_ns IS NOT NULL
    AND counters_period_ns IS NOT NULL
    AND seen_packets IS NOT NULL
    AND seen_l2_bytes IS NOT NULL
    AND no_flow IS NOT NULL
    AND losses IS NOT NULL
    AND in_doubt IS NOT NULL
    AND stages IS NOT NULL
    AND table_entries IS NOT NULL
    AND table_capacity IS NOT NULL
    AND table_swaps IS NOT NULL
    AND final IS NOT NULL
  THEN true
  ELSE error('flowstream_counters.jsonl: line ' || line || ': not a JSON record of schema version 1')
END;
