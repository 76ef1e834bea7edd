"""Kafka log segments on disk: reading, writing and checking them."""
