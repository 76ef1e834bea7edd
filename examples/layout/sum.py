"""Sums of a topic in any format, by flowstream's own decoder.

::

    kcat -C -e -b 127.0.0.1:9092 -t flowstream.flows -f '%R%s' | python sum.py

Reads values behind their lengths, as kcat writes them by %R%s. Ends at a value that is no
flow record of schema version 1.
"""

import json
import struct
import sys

from flowstream.errors import DecodeError
from flowstream.records import FlowRecord, decode


def main() -> None:
    """Print one line of JSON."""
    sums = dict.fromkeys(("records", "packets", "bytes", "l2_bytes"), 0)
    while length := sys.stdin.buffer.read(4):
        (octets,) = struct.unpack(">I", length)
        value = sys.stdin.buffer.read(octets)
        try:
            record = decode(value)
        except DecodeError as err:
            sys.exit(f"value {sums['records']}: {err}")
        if not isinstance(record, FlowRecord):
            sys.exit(f"value {sums['records']}: not a flow")
        sums["records"] += 1
        for name in ("packets", "bytes", "l2_bytes"):
            sums[name] += getattr(record, name)
    print(json.dumps(sums, separators=(",", ":")))


if __name__ == "__main__":
    main()
