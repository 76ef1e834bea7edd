"""Filters and programs at the TC hook that are not flowstream's."""

from __future__ import annotations

import os
import re
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Final

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.closing import Closing
from flowstream.kernel import libbpf
from support.bytecode import instruction, returning
from support.counts import Counts

if TYPE_CHECKING:
    from support.net import Interface, Wire

NEXT: Final = -1
"""TC_ACT_UNSPEC: what the program returns leaves the packet to the next filter."""
TAKE: Final = 0
"""TC_ACT_OK: no further filter sees the packet."""


PACKETS: Final = 101
FRAME: Final = bytes.fromhex("020000000002 020000000001 88b5") + bytes(46)
"""Of an EtherType for local experiments."""
POINTS: Final = {INGRESS: "ingress", EGRESS: "egress"}


class CountingProgram(Closing):
    """A program that counts the packets that it sees, of any length, and returns ``verdict``."""

    def __init__(self, verdict: int = NEXT) -> None:
        self._counts = Counts(1)
        index = instruction(0x62, 10, 0, -4)  # *(u32 *)(r10 - 4) = 0
        code = index + self._counts.counting + returning(verdict)
        self.fd = libbpf.prog_load("counting", code, kind=libbpf.BPF_PROG_TYPE_SCHED_CLS)
        self.id, _ = libbpf.prog_info(self.fd)

    @property
    def packets(self) -> int:
        """Packets seen so far."""
        return self._counts.of(0)

    def close(self) -> None:
        """Release it; a filter keeps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._counts.close()


def tc(device: Interface, command: str) -> str:
    """Run tc(8) in a device's namespace, DEV stands for the device; return its output."""
    return device.namespace.run("tc", *command.replace("DEV", f"dev {device.name}").split())


def qdiscs(device: Interface) -> list[str]:
    """Kinds of the qdiscs with filters at the TC hook."""
    return re.findall(r"^qdisc (clsact|ingress) ", tc(device, "qdisc show DEV"), re.MULTILINE)


def filters(device: Interface, direction: int) -> list[tuple[int, str]]:
    """Priority and name of each BPF filter, in the order in which they run."""
    shown = tc(device, f"filter show DEV {POINTS[direction]}")
    found = re.findall(r"pref (\d+) bpf chain 0 handle 0x[0-9a-f]+ (\S+) direct-action", shown)
    return [(int(priority), name) for priority, name in found]


def add_foreign(device: Interface, direction: int, priority: int) -> None:
    """Add a filter of another kind, which takes no packet."""
    where = f"DEV {POINTS[direction]} prio {priority} protocol ip"
    tc(device, f"filter add {where} u32 match u8 0 0 classid 1:1")


def device_of(wire: Wire, direction: int) -> Interface:
    """The device that packets from the sender pass in a direction."""
    return wire.sender if direction == EGRESS else wire.receiver


def arrive(wire: Wire, packets: int = PACKETS) -> None:
    """Send packets and wait until the receiver has them, after all filters."""
    with (
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as tap,
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sender,
    ):
        tap.bind((wire.receiver.name, 0x88B5))
        tap.settimeout(10)
        sender.bind((wire.sender.name, 0))
        for _ in range(packets):
            sender.send(FRAME)
        for _ in range(packets):
            tap.recv(2048)
