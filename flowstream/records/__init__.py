"""What flowstream publishes, typed, for whoever reads a topic.

::

    from flowstream.records import FlowRecord, decode

    record = decode(message.value)      # any format, told apart by its first octets
    if isinstance(record, FlowRecord):
        print(record.source, record.destination, record.packets)

A record is the same whichever format carried it: addresses are 16 raw bytes
(IPv4 v4-mapped), MAC addresses 6, ``host_id`` 16, names without padding.
Fields are only ever added at the end, so values of a newer agent stay readable,
unless its ``schema_version`` says that they mean something else.
"""

from flowstream.records.counters import CountersRecord, Loss, StageCounts
from flowstream.records.decoding import decode, decode_many
from flowstream.records.flow import SCHEMA_VERSION, EndReason, FlowRecord, RecordType

__all__ = [
    "SCHEMA_VERSION",
    "CountersRecord",
    "EndReason",
    "FlowRecord",
    "Loss",
    "RecordType",
    "StageCounts",
    "decode",
    "decode_many",
]
