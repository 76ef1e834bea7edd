"""Delivery: the parts that sinks share, and the sink for standard output."""
