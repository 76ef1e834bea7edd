"""Recordings of topics, and topics out of recordings.

A copy keeps key, headers, timestamp, value, partition and the order within a
partition of every message. Offsets are given anew, from 0.
"""

from flowstream.recording.copying import recording_path
from flowstream.recording.record import record
from flowstream.recording.replay import replay

__all__ = ["record", "recording_path", "replay"]
