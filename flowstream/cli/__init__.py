"""The command line: one module per command, each with ``add`` and ``execute``.

Modules of this package import nothing heavy at the top, so that ``--help``
answers at once; ``execute`` imports what its command needs.
"""
