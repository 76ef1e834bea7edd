"""The kernel side: the only package that knows bcc, libbpf or a map's layout."""
