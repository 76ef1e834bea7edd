"""For tests of whatever reads flowstream's topics: a pytest plugin, loaded by itself.

Its fixtures are ``recording``, ``replayed_topic`` and ``flow_factory``; docs/testing.md
shows them at work. Nothing is imported before a fixture is used.
"""
