"""The host: identity, interfaces, namespaces, privileges."""
