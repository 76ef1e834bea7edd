"""Follows the interfaces of a host: which links there are, and which of them are attached to."""
