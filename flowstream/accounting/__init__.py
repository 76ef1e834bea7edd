"""Accounting of packets and records: ledger, tallies, terms of the loss equation, counters."""
