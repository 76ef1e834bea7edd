"""The published records, typed, for readers of a topic.

::

    from flowstream.records import FlowRecord, decode

    record = decode(message.value)      # any format, told apart by its beginning
    if isinstance(record, FlowRecord):
        print(record.source, record.destination, record.packets)

A record is the same in every format: addresses are 16 raw bytes (IPv4 v4-mapped),
MAC addresses 6, ``host_id`` 16, names without padding. Fields that only some
formats carry (``host``, ``in_if``, ``out_if``, ``community_id``) are not part of
it; ``community_id`` computes the Community ID of a record. ``to_dict`` makes a dict
of a record, with addresses as text, and ``encode`` a value of any format.
``biflows`` pairs the two directions of each connection and says which end began.
Fields are only ever added at the end, so values of a newer agent stay readable,
unless its ``schema_version`` differs: then their meaning has changed.
"""

from flowstream.layouts.constants import SCHEMA_VERSION, EndReason, RecordType
from flowstream.records.biflow import Biflow, BiflowDirection, Evidence, Uniflow
from flowstream.records.community import community_id
from flowstream.records.counters import (
    Amount,
    CountersRecord,
    Loss,
    SpoolCounts,
    StageCounts,
)
from flowstream.records.decoding import decode, decode_many
from flowstream.records.encoding import encode, to_dict
from flowstream.records.flow import FlowRecord
from flowstream.records.pairing import BiflowPairing, biflows

__all__ = [
    "SCHEMA_VERSION",
    "Amount",
    "Biflow",
    "BiflowDirection",
    "BiflowPairing",
    "CountersRecord",
    "EndReason",
    "Evidence",
    "FlowRecord",
    "Loss",
    "RecordType",
    "SpoolCounts",
    "StageCounts",
    "Uniflow",
    "biflows",
    "community_id",
    "decode",
    "decode_many",
    "encode",
    "to_dict",
]
