"""Faults of brokers, networks and disks, and what becomes of the packets.

A fault is a row of ``network.FAULTS``, ``answers.FAULTS``, ``secure.FAULTS`` or
``host.FAULTS``: its name, what causes and ends it, and its outcome. ``test_faults.py`` runs
the agent on a real interface for each: traffic before, during and after the fault, and then
``flowstream audit``, which must account for every packet.
"""
