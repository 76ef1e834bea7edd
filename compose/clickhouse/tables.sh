#!/bin/sh
# Run by ClickHouse's image at its first start: a table of the topic's flow records, which keeps
# them for a week.
set -e
{
	sed "s/'localhost:9092'/'kafka:19092'/" /schemas/flows.clickhouse.sql
	cat <<-SQL
		ALTER TABLE flowstream_flows
		    MODIFY TTL toDateTime(time_received_ns) + INTERVAL 7 DAY;
	SQL
} | clickhouse-client
