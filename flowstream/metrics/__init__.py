"""Metrics in Prometheus' formats, and the agent's health, by HTTP."""
