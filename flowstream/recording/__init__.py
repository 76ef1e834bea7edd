"""Record topics and replay recordings.

A copy keeps every message's key, headers, timestamp, value, partition and its order
within the partition. Offsets start again from 0.
"""

from flowstream.recording.copying import recording_path
from flowstream.recording.record import record
from flowstream.recording.replay import replay

__all__ = ["record", "recording_path", "replay"]
