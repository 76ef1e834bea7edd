"""From batches of records to values, keys and partitions. Pure: no loop, log or clock.

The order of the calls for one batch::

    stamp(records, identity, first_seq)        # in place
    values = encoder.encode(records)
    keys = partition_keys(records)
    batches = split(stream, topic, values, keys, partitions(keys, n), tally, timestamp_ms, epoch)
"""

from flowstream.encode.counters import counters_batch
from flowstream.encode.encoder import FORMATS, Encoder, make_encoder
from flowstream.encode.partition import (
    counters_key,
    counters_partition,
    partition_keys,
    partitions,
)
from flowstream.encode.prefixes import Prefixes
from flowstream.encode.profiles import PROFILES
from flowstream.encode.split import split
from flowstream.encode.stamp import stamp

__all__ = [
    "FORMATS",
    "PROFILES",
    "Encoder",
    "Prefixes",
    "counters_batch",
    "counters_key",
    "counters_partition",
    "make_encoder",
    "partition_keys",
    "partitions",
    "split",
    "stamp",
]
