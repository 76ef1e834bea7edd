"""Kafka log segments on disk: read, written, checked."""
