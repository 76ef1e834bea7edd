"""Options: from the command line and a TOML file to checked values."""
