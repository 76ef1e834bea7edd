"""Prints the digest of all records, in MessagePack, of the captures that its arguments name."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile

from recorded import FLOWSTREAM, values

TOPICS = ("flows", "new_flows", "counters")


def octets(captures: list[str]) -> bytes:
    """All records of the captures, topic by topic."""
    with tempfile.TemporaryDirectory() as directory:
        sink = f"file:{directory}/recording"
        command = [*FLOWSTREAM, "pcap", *captures, "--format", "msgpack", "--sink", sink]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        topics = [b"".join(values(sink, topic)) for topic in TOPICS]
    assert all(topics), "captures gave no records"
    return b"".join(topics)


if __name__ == "__main__":
    sys.stdout.write(hashlib.sha256(octets(sys.argv[1:])).hexdigest() + "\n")
