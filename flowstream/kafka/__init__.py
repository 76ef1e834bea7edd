"""Everything that speaks to a Kafka broker."""
