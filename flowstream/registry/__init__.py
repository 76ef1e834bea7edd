"""Schema registry client, and encoders whose values start with a registry's prefix."""
