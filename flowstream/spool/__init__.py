"""The spool around a Kafka sink: what the broker does not take is kept on disk for later."""
