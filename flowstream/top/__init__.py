"""The live table of flows: ``flowstream top``.

A feed (a topic, a recording or an agent of its own) is read in one thread, added up in another
(``Model``), and shown by the main thread: on the screen, as text or as JSON.
"""
