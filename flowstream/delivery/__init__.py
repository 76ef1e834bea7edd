"""What sinks have in common, and the sink for standard output."""
