"""Nothing is assumed of the machine: byte order, size of pages and pointers, number of CPUs.

``LOOKED_FOR`` says what the package's lines are searched for, and ``KNOWN`` why each place that
has it is right on every machine. A new place must be written otherwise, or be told here.
"""

from __future__ import annotations

import re
import socket
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import flowstream
from flowstream.accounting.snapshot import Moment
from flowstream.host import seccomp
from flowstream.kernel import records
from flowstream.layouts import flow as layout
from flowstream.layouts.constants import EndReason, EtherType

PACKAGE = Path(flowstream.__file__).parent
LOOKED_FOR = {
    "struct in the machine's order and with its alignment: begin with < > ! or =": (
        r"""(?:Struct|\bstruct\.calcsize|\b(?:iter_)?(?:un)?pack(?:_from|_into)?)\(\s*f?["'][^"'<>!=]"""
    ),
    "numpy type of several octets without its order: begin with < or >": (
        r"""(?<!order \+ )["'][uif][248]["']"""
    ),
    "octets read as the machine's numbers: use a type with its order": (
        r"(?:\.view|frombuffer)\([^()]*np\.(?:u?int(?:16|32|64)|u?long)\b"
    ),
    "the machine's byte order": r"\bsys\.byteorder\b",
    "a byte order for octets": r"""\b(?:to|from)_bytes\([^()]*["']little["']""",
    "a page of 4,096 octets: ask mmap.PAGESIZE": r"\b4_?096\b|\b0x1000\b|<< ?12\b|~0xfff\b",
    "types as long as a pointer": r"\bc_u?long\b|\bc_s?size_t\b|\bsys\.maxsize\b",
    "CPUs that are online: maps have values of the possible ones": (
        r"\b(?:os|multiprocessing)\.(?:process_)?cpu_count\b"
    ),
    "the name of a machine": r"platform\.machine|\bmachine\b *==|x86_64|aarch64|amd64|s390x",
}
_KERNEL_ORDER = "the kernel's structures are in this machine's order"
_COPIED = "the same octets come back out of the same numbers"
_COMPARED = "numbers are only compared with each other"
_NO_PAGE = "it is no page"
KNOWN = {
    ("attacher/attaching.py", "0x1000"): "AT_EMPTY_PATH",
    ("attacher/protocol.py", "4096"): _NO_PAGE,
    ("config/agent.py", "4096"): "PATH_MAX",
    ("config/spool.py", "4096"): "PATH_MAX",
    ("demo/traffic.py", "4096"): _NO_PAGE,
    ("encode/address_texts.py", ".view(np.uint32"): _COPIED,
    ("encode/columns.py", "frombuffer(V4_MAPPED, np.uint32"): _COMPARED,
    ("encode/columns.py", ".view(np.uint32"): _COMPARED,
    ("host/privileges.py", "aarch64"): "numbers of a system call",
    ("host/privileges.py", "platform.machine"): "numbers of a system call",
    ("host/privileges.py", "s390x"): "numbers of a system call",
    ("host/privileges.py", "x86_64"): "numbers of a system call",
    ("host/seccomp.py", "s390x"): "where calls take their arguments from memory",
    ("kafka/producer.py", 'pack("i'): "struct linger of this machine",
    ("kafka/scram.py", "4_096"): _NO_PAGE,
    ("kernel/assembler.py", "sys.byteorder"): _KERNEL_ORDER,
    ("kernel/bcc_child.py", "sys.byteorder"): "which order it compiles for",
    ("kernel/bcc_child.py", "c_size_t"): "size_t",
    ("kernel/books_map.py", "sys.byteorder"): _KERNEL_ORDER,
    ("kernel/cache.py", "sys.byteorder"): "which order it is for",
    ("kernel/lease.py", "sys.byteorder"): _KERNEL_ORDER,
    ("kernel/libbpf.py", "c_size_t"): "size_t",
    ("kernel/object.py", "sys.byteorder"): "which order it is for",
    ("kernel/ringbuf.py", ".view(np.uint64"): _KERNEL_ORDER,
    ("kernel/ringbuf.py", "c_long"): "off_t",
    ("kernel/ringbuf.py", "c_size_t"): "size_t",
    ("kernel/structures.py", "c_size_t"): "size_t",
    ("layouts/flow.py", "sys.byteorder"): _KERNEL_ORDER,
    ("pipeline/aggregate.py", ".view(np.uint64"): _COMPARED,
    ("pipeline/publisher.py", "4_096"): _NO_PAGE,
    ("records/fields.py", '"u8"'): "a kind of field",
    ("schemas/layout.py", '"u8"'): "a kind of field",
    ("top/interfaces.py", "4_096"): _NO_PAGE,
    ("top/names.py", "4_096"): _NO_PAGE,
}


def found(text: str) -> dict[str, list[str]]:
    """What is found in a text, with its meaning; comments do not count."""
    result: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        code = line.partition("  # ")[0] if not line.lstrip().startswith("#") else ""
        for meaning, pattern in LOOKED_FOR.items():
            for match in re.finditer(pattern, code):
                result[match[0]].append(meaning)
    return result


def test_nothing_is_assumed_of_the_machine():
    places = {
        (path.relative_to(PACKAGE).as_posix(), what): meanings
        for path in sorted(PACKAGE.rglob("*.py"))
        for what, meanings in found(path.read_text(encoding="utf-8")).items()
    }
    assert {place: why for place, why in places.items() if place not in KNOWN} == {}
    assert KNOWN.keys() - places.keys() == set()


@pytest.mark.parametrize(
    "line",
    [
        'HEADER = struct.Struct("IHH")',
        'struct.unpack_from("@Q", head)',
        'np.dtype("u4")',
        "np.frombuffer(octets, np.uint32)",
        "octets.view(np.int64)",
        "number.to_bytes(8, sys.byteorder)",
        'int.from_bytes(octets, "little")',
        "size = 4096",
        "page = 1 << 12",
        '("size", c_ulong)',
        "for cpu in range(os.cpu_count() or 1):",
        'if platform.machine() == "x86_64":',
    ],
)
def test_what_is_looked_for_is_found(line):
    assert len(found(line)) >= 1


@pytest.mark.parametrize(("machine", "checked"), [("x86_64", 1), ("aarch64", 1), ("s390x", 0)])
def test_a_filter_checks_no_arguments_that_are_in_memory(machine, checked):
    """It would check registers with other contents, and refuse memory by chance."""
    conditions = [seccomp.Argument(2, 0, 4)]
    for call in ("mmap", "socket", "socketpair", "getsockopt"):
        assert len(seccomp.visible(call, conditions, machine)) == checked
    assert seccomp.visible("mprotect", conditions, machine) == conditions


def numbers_of(address: bytes, order: str) -> np.ndarray:
    """An address as the kernel's four numbers of a machine: its octets keep their order."""
    return np.frombuffer(address, f"{order}u4")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_flow_table_of_either_byte_order_gives_the_same_record(order):
    """What the kernel of a machine of that order would hand over."""
    keys = np.zeros(1, layout.flow_key(order))
    values = np.zeros(1, layout.flow_value(order))
    source = bytes(10) + b"\xff\xff" + socket.inet_aton("10.1.2.3")
    keys["src_addr"], keys["dst_addr"] = numbers_of(source, order), numbers_of(source, order)
    keys["etype"], keys["proto"] = EtherType.IPV4, 6
    keys["src_port"], keys["dst_port"], keys["if_index"] = 443, 4003, 70_001
    values["packets"], values["bytes"], values["l2_bytes"] = 3, 257, 70_003
    values["time_start_ns"], values["time_end_ns"] = 1_009, 2_003
    values["flag_seen"][0, [1, 4]] = 1
    (record,) = records.from_table(keys, values, EndReason.FORCED, 7, Moment(10**18, 10**9))
    octets = record.tobytes()
    assert octets.count(source) == 2
    for number, size in (
        (443, 2), (4003, 2), (70_001, 4), (3, 8), (257, 8), (70_003, 8),
        (10**18 - 10**9 + 1_009, 8),
    ):  # fmt: skip
        assert number.to_bytes(size, "big") in octets
    assert int(record["tcp_flags"]) == 0b1_0010
