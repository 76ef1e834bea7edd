"""A process without privileges that works with maps, a program and a link passed to it.

    descriptors.py SOCKET INDEX

It receives four descriptors by the socket: a flow table, an overflow ring, a
program, a link.
"""

from __future__ import annotations

import json
import os
import socket
import sys

import numpy as np

from flowstream.kernel import features
from flowstream.kernel import object as kernel_object
from flowstream.kernel.flow_maps import OVERFLOW_SIZE
from flowstream.kernel.link import Link, Mode
from flowstream.kernel.maps import HashMap
from flowstream.kernel.program import Program
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.layouts import flow as layout

NOBODY = 65534
MAX_FLOWS = 101


def main(sock: socket.socket, index: int) -> dict[str, object]:
    """Use what comes by the socket; return what was found."""
    # First: the installation may be below a directory that only root can read, as /root.
    obj = kernel_object.embedded("flow")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _, (table_fd, ring_fd, program_fd, link_fd), _, _ = socket.recv_fds(sock, 16, 4)
    table = HashMap.from_fd(
        table_fd, obj.map("flow_table"), layout.FLOW_KEY, layout.FLOW_VALUE, MAX_FLOWS
    )
    for port in range(3):
        key = np.zeros(1, layout.FLOW_KEY)
        key["src_port"] = port
        table.update(key, np.zeros(1, layout.FLOW_VALUE))
    ring = RingBuffer.from_fd(ring_fd, obj.map("overflow"), layout.FLOW_RECORD, OVERFLOW_SIZE)
    return {
        "capabilities": sorted(features.effective_capabilities()),
        "drained": sum(len(keys) for keys, _ in table.drain()),
        "read": len(ring.read(1_009)),
        "program": Program.from_fd(program_fd, obj.program("xdp_flow")).name,
        "link": Link.from_fd(link_fd, index, Mode.NATIVE).index,
    }


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        json.dump(main(given, int(sys.argv[2])), sys.stdout)
