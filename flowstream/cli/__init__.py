"""The command line: one module per command, each with ``add`` and a function that runs it.

Modules of this package import nothing heavy at the top, so that ``--help``
answers at once; what a command needs is imported when it runs.
"""
