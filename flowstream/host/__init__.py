"""The host: its identity, interfaces, namespaces, privileges."""
