"""Options, from the command line and a TOML file to checked values.

``publish``, ``run`` and ``pcap`` state the options as fields of Structs;
``options`` makes the table from them that commands and documents use.
"""
