"""A pytest plugin for tests of programs that read flowstream's topics.

pytest loads it automatically. Its fixtures are ``recording``, ``replayed_topic`` and
``flow_factory``; docs/testing.md has examples. Nothing is imported before a fixture
is used.
"""
