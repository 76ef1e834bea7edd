"""A run that takes over another: books, and what earlier runs left is closed."""
