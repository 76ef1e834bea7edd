"""For developers: files that are generated, checked and written."""
