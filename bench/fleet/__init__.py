"""A fleet of simulated agents: ``python -m bench.fleet`` writes its topics.

``python -m bench.fleet.check`` also has ``examples/fleet_audit_spark.py`` audit
them and compares what it found with what was written.
"""
