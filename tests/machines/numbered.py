"""Numbered packets, whose every field follows from the number, and the records of such packets."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HEADERS: Final = 14 + 20 + 8
MOST_PAYLOAD: Final = 63
BATCH: Final = 64
UNDER_WAY: Final = 12_000
"""Octets that the kernel may hold of a sender's packets: those of 4 fit into a veth's queue."""
_processes = multiprocessing.get_context("fork")

_FRAME: Final = np.dtype(
    [
        ("dst_mac", "u1", (6,)), ("src_mac", "u1", (6,)), ("etype", ">u2"), ("version", "u1"),
        ("ip_tos", "u1"), ("length", ">u2"), ("id", ">u2"), ("fragment", ">u2"),
        ("ip_ttl", "u1"), ("proto", "u1"), ("ip_checksum", ">u2"), ("src", ">u4"), ("dst", ">u4"),
        ("src_port", ">u2"), ("dst_port", ">u2"), ("udp_length", ">u2"), ("udp_checksum", ">u2"),
        ("payload", "u1", (MOST_PAYLOAD,)),
    ]
)  # fmt: skip


class _Fields:
    """What the packets of these flow numbers have in their headers."""

    def __init__(self, numbers: NDArray[np.uint64]) -> None:
        # The finaliser of MurmurHash3: each bit of the result depends on each of the number.
        mixed = numbers + np.uint64(1)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            mixed ^= mixed >> np.uint64(33)
            mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(33)

        def part(shift: int, bits: int) -> NDArray[np.uint64]:
            taken: NDArray[np.uint64] = mixed >> np.uint64(shift) & np.uint64((1 << bits) - 1)
            return taken

        self.dst, self.src_port, self.dst_port = part(0, 32), part(32, 16), part(48, 16)
        self.ip_tos, self.ip_ttl = part(7, 8), part(19, 6) + np.uint64(1)
        self.payload = part(41, 6)
        self.src_mac = mixed.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 2:]


def frames(numbers: NDArray[np.uint64]) -> tuple[NDArray[np.void], NDArray[np.uint64]]:
    """UDP packets of these flow numbers, and how many octets each has."""
    fields = _Fields(numbers)
    made = np.zeros(len(numbers), _FRAME)
    made["dst_mac"], made["src_mac"] = (2, 0, 0, 0, 0, 2), fields.src_mac
    made["etype"], made["version"], made["proto"] = 0x0800, 0x45, 17
    made["length"], made["udp_length"] = fields.payload + 28, fields.payload + 8
    made["src"], made["dst"] = numbers, fields.dst
    for name in ("ip_tos", "ip_ttl", "src_port", "dst_port"):
        made[name] = getattr(fields, name)
    return made, fields.payload + np.uint64(HEADERS)


def check(records: NDArray[np.void]) -> NDArray[np.uint64]:
    """See that every record has all that its packets had; return their flow numbers."""
    source = np.ascontiguousarray(records["src_addr"][:, 12:]).view(">u4")[:, 0]
    numbers = source.astype(np.uint64)
    fields = _Fields(numbers)
    destination = np.ascontiguousarray(records["dst_addr"][:, 12:]).view(">u4")[:, 0]
    expected = {
        "etype": 0x0800, "proto": 17, "src_port": fields.src_port, "dst_port": fields.dst_port,
        "ip_tos": fields.ip_tos, "ip_ttl": fields.ip_ttl, "tcp_flags": 0, "vlan_id": 0,
        "bytes": records["packets"] * (fields.payload + 28),
        "l2_bytes": records["packets"] * (fields.payload + HEADERS),
    }  # fmt: skip
    wrong = {name for name, value in expected.items() if (records[name] != value).any()}
    wrong |= {"dst_addr"} if (destination != fields.dst).any() else set()
    wrong |= {"src_mac"} if (records["src_mac"] != fields.src_mac).any() else set()
    assert not wrong, f"records differ from their packets in {sorted(wrong)}"
    return numbers


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)), ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


def send(device: str, numbers: NDArray[np.uint64]) -> None:
    """Send a packet of each of these flows, as many at a time as fit into the queue."""
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNDER_WAY)
        raw.bind((device, 0))
        for start in range(0, len(numbers), BATCH):
            made, lengths = frames(numbers[start : start + BATCH])
            count = len(made)
            vectors = (_Vector * count)(
                *(
                    _Vector(made.ctypes.data + n * made.itemsize, int(lengths[n]))
                    for n in range(count)
                )
            )
            messages = (_Message * count)(
                *(_Message(_Header(vectors=ctypes.pointer(each), count=1)) for each in vectors)
            )
            done = 0
            while done < count:
                at = ctypes.byref(messages, done * ctypes.sizeof(_Message))
                sent = libc.sendmmsg(raw.fileno(), at, count - done, 0)
                assert sent > 0, os.strerror(ctypes.get_errno())
                done += sent


def send_on_cpus(device: str, shares: Sequence[NDArray[np.uint64]]) -> None:
    """Send each share from a CPU of its own, all at the same time; from some of many CPUs."""

    def run(cpu: int, share: NDArray[np.uint64]) -> None:
        os.sched_setaffinity(0, {cpu})
        send(device, share)

    cpus = sorted(os.sched_getaffinity(0))
    senders = [
        _processes.Process(target=run, args=(cpus[number * len(cpus) // len(shares)], share))
        for number, share in enumerate(shares)
    ]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
        assert each.exitcode == 0, "a sender failed"
