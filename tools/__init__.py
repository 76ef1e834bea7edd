"""Developer tools: generate files and check them."""
