"""From a probe to the sink: rings and tables are read, records limited, stamped, encoded."""
