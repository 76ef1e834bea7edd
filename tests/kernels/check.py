"""Runs the embedded objects on this kernel without privileges: load, count, swap, drain, detach.

    python3 check.py RECEIVING SENDING        (as root; two ends of a quiet veth pair)

Every case runs in a child process of its own, because privileges are given up
for good. It prints a line per check and exits with 1 when one failed.
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.errors import KernelError
from flowstream.host import privileges
from flowstream.kernel import features, libbpf
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.generation import BOOKS, LinkPin
from flowstream.kernel.leftovers import open_earlier
from flowstream.kernel.link import Hook, Mode
from flowstream.kernel.map import Map
from flowstream.kernel.object import MapSpec
from flowstream.kernel.packet_filter import PacketFilter
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.structures import ProgInfo
from flowstream.kernel.target import Target
from flowstream.layouts.constants import EndReason, RecordType
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection

    import numpy as np

    from flowstream.kernel.program import Program

NOBODY = privileges.User(65534, 65534)
CASE_TIMEOUT_S = 60
TRAFFIC_TIMEOUT_S = 20
SRC_MAC, DST_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ROUNDS = 2
MOST_INSTRUCTIONS = {Hook.XDP: 15_000, Hook.TC: 30_000}
ETHERNET = 14
VLAN_ID = 7
"""Place in the flows of Traffic."""
TUNSETIFF, IFF_TUN = 0x400454CA, 1
"""linux/if_tun.h"""
PLACE = Path(f"/tmp/flowstream-check-{os.getpid()}")
"""A BPF file system of this check's own."""
AT_TC = Mode.TCX if features.has_tcx() else Mode.CLSACT
"""Mode in force at the TC hook."""
ATTACH_TYPES = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
POINTS = ("ingress", "egress")
"""Both by direction."""
EXPRESSION = "ip src host 10.0.0.2 or vlan 7"
FILTERING = (
    *((0x28, 0, 0, 12), (0x15, 0, 2, 0x0800), (0x20, 0, 0, 26), (0x15, 6, 7, 0x0A000002)),
    *((0x15, 2, 0, 0x8100), (0x15, 1, 0, 0x88A8), (0x15, 0, 4, 0x9100), (0x28, 0, 0, 14)),
    *((0x54, 0, 0, 0x0FFF), (0x15, 0, 1, 7), (0x06, 0, 0, 262_144), (0x06, 0, 0, 0)),
)
"""What libpcap, which the guest does not have, makes of it: code, jt, jf and k."""
EPOCH = 1_764_126_000_123_456_512
processes = multiprocessing.get_context("fork")


def say(line: str) -> None:
    """Print a line for the runner."""
    print(f"check: {line}", flush=True)  # noqa: T201 - its output is its result


def tc(command: str) -> str:
    """Run tc(8) and return its output."""
    done = subprocess.run(["tc", *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"tc {command}: {done.stderr.strip()}"
    return done.stdout


@dataclass(frozen=True)
class Point:
    """What to attach to; ``direction`` is that of the sender's packets there.

    ``attachers`` are kept as long as what they attached: it may end with them.
    """

    interface: str
    mode: Mode
    direction: int
    attachers: list[Attacher[Any]] = field(default_factory=list)

    @property
    def target(self) -> Target:
        return Target.named(self.interface, self.mode, direction=self.direction)

    def attach(self, kernel: FlowProbe | CounterProbe) -> Any:
        """Attach, at the TC hook by an attacher, which keeps filters before Linux 6.6."""
        if self.mode.hook is Hook.XDP:
            attachment: Any = attach_here(kernel, self.target)
            equal("mode", attachment.mode, self.mode)
        else:
            self.attachers.append(Attacher(Process(), kernel, NOBODY))
            attachment = self.attachers[-1].attach(self.target)
            equal("mode", attachment.mode, AT_TC)
        return attachment

    def programs(self) -> list[int]:
        """Numbers of the programs that are there."""
        index = socket.if_nametoindex(self.interface)
        if self.mode.hook is Hook.XDP:
            found = libbpf.attached_program(index)
            return [found[0]] if found else []
        if AT_TC is Mode.CLSACT:
            shown = tc(f"filter show dev {self.interface} {POINTS[self.direction]}")
            return [int(number) for number in re.findall(r"flowstream .* id (\d+)", shown)]
        return libbpf.tcx_programs(index, ATTACH_TYPES[self.direction])


@dataclass(frozen=True)
class Traffic:
    """Copies of one frame. ``flow`` is the fields of its flow record, None when it has no flow."""

    frame: bytes
    copies: int
    flow: tuple[int, ...] | None = None
    source: int = 0


def ethernet(etype: int, payload: bytes, vlan: int = 0) -> bytes:
    tag = struct.pack(">HH", 0x8100, vlan) if vlan else b""
    return DST_MAC + SRC_MAC + tag + struct.pack(">H", etype) + payload


def ipv4(source: bytes, proto: int, payload: bytes) -> bytes:
    length = 20 + len(payload)
    head = struct.pack(">BBHHHBBH4s", 0x45, 8, length, 1, 0, 61, proto, 0, source)
    return head + bytes((10, 9, 9, 9)) + payload


def ipv6(proto: int, payload: bytes) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(payload), proto, 59)
    return head + bytes(15) + b"\1" + bytes(15) + b"\2" + payload


def udp(number: int, copies: int) -> Traffic:
    source = bytes((10, 0, 0, number))
    frame = ethernet(
        0x0800, ipv4(source, 17, struct.pack(">HHHH", 4001, 53, 8 + 37, 0) + bytes(37))
    )
    flow = (0x0800, 17, 4001, 53, 0, 0, 0, 0, copies, 65 * copies, 79 * copies)
    return Traffic(frame, copies, flow, int.from_bytes(source, sys.byteorder))


def ping(vlan: int, copies: int) -> Traffic:
    source = bytes((10, 0, 1, 1))
    frame = ethernet(0x0800, ipv4(source, 1, struct.pack(">BBHHH", 8, 0, 0, 1, 1)), vlan)
    flow = (0x0800, 1, 0, 0, 8, 0, 0, vlan, copies, 28 * copies, 46 * copies)
    return Traffic(frame, copies, flow, int.from_bytes(source, sys.byteorder))


def tcp6(flags: int, copies: int) -> Traffic:
    segment = struct.pack(">HHIIBBHHH", 443, 4003, 1, 1, 5 << 4, flags, 1, 0, 0)
    flow = (0x86DD, 6, 443, 4003, 0, 0, flags, 0, copies, 60 * copies, 74 * copies)
    return Traffic(ethernet(0x86DD, ipv6(6, segment)), copies, flow)


ARP = Traffic(ethernet(0x0806, bytes(28)), 19)
CUT = Traffic(ethernet(0x0800, b"\x45" + bytes(10)), 23)
# Fewer frames than a veth's queue of 256 holds: none can be lost on the way.
TRAFFIC = (
    (udp(1, 2), udp(2, 3), udp(3, 31), ping(7, 11), tcp6(0x12, 13), ARP, CUT),
    (udp(2, 5), udp(3, 7), udp(4, 17), udp(5, 29), tcp6(0x18, 43), ARP),
)
FIELDS = (
    *("etype", "proto", "src_port", "dst_port", "icmp_type", "icmp_code", "tcp_flags", "vlan_id"),
    *("packets", "bytes", "l2_bytes"),
)


def total(traffic: Iterable[Traffic]) -> int:
    return sum(each.copies for each in traffic)


class Sender:
    """A child process that stays root and sends a round of TRAFFIC each time it is told to.

    It ends when this process ends, which may not send it a signal by then.
    """

    def __init__(self, device: str) -> None:
        self._pipe, far_end = processes.Pipe()
        self._process = processes.Process(target=self._serve, args=(device, far_end))
        self._process.start()
        far_end.close()

    def _serve(self, device: str, pipe: Connection) -> None:
        self._pipe.close()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw, suppress(EOFError):
            raw.bind((device, 0))
            cpus = sorted(os.sched_getaffinity(0))
            while True:
                number = pipe.recv()
                # A veth receives on the CPU that sent: every CPU's counters take part.
                os.sched_setaffinity(0, {cpus[number % len(cpus)]})
                for each in TRAFFIC[number]:
                    for _ in range(each.copies):
                        raw.send(each.frame)
                pipe.send(total(TRAFFIC[number]))

    def send(self, number: int) -> None:
        self._pipe.send(number)
        assert self._pipe.poll(TRAFFIC_TIMEOUT_S), "the sender does not answer"
        assert self._pipe.recv() == total(TRAFFIC[number])

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def equal(what: str, found: Any, expected: Any) -> None:
    assert found == expected, f"{what}: found {found}, expected {expected}"


def become_nobody() -> None:
    """Give up every privilege and show that nothing is left of them."""
    privileges.give_up(NOBODY)
    equal("user", os.getresuid(), (NOBODY.uid,) * 3)
    sysctl = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip()
    assert sysctl != "0", "this kernel lets everyone use bpf(): nothing would be shown"
    try:
        Map(MapSpec("refused", libbpf.MAP_TYPE_ARRAY, 4, 8, 1, 0))
    except KernelError as err:
        equal("creating a map", err.errno, errno.EPERM)
    else:
        raise AssertionError("a map was created without privileges")


def wait_for_packets(counters: Callable[[], Any], expected: int) -> None:
    """Wait until so many packets were received, and see that there are no more of them."""
    deadline = time.monotonic() + TRAFFIC_TIMEOUT_S
    while counters().seen.packets < expected and time.monotonic() < deadline:
        os.sched_yield()
    equal("seen packets", counters().seen.packets, expected)


def flows_of(batches: Iterable[np.ndarray[Any, Any]]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(int(r[name]) for name in FIELDS) for batch in batches for r in batch)


def check_constants(record: np.void, point: Point, record_type: RecordType) -> None:
    equal("record_type", int(record["record_type"]), record_type)
    equal("if_index", int(record["if_index"]), socket.if_nametoindex(point.interface))
    equal("flow_direction", int(record["flow_direction"]), point.direction)
    equal("src_mac", bytes(record["src_mac"]), SRC_MAC)
    equal("dst_mac", bytes(record["dst_mac"]), DST_MAC)
    age = time.time_ns() - int(record["time_flow_end_ns"])
    assert 0 <= age < CASE_TIMEOUT_S * 1e9, f"time_flow_end_ns: {age} ns ago"


def check_flow(point: Point, sender: Sender) -> str:
    began = time.perf_counter()
    with FlowProbe(max_flows=1009) as kernel:
        attachment = point.attach(kernel)
        took = time.perf_counter() - began
        become_nobody()
        announced: set[tuple[int, ...]] = set()
        for number in range(ROUNDS):
            traffic = TRAFFIC[number]
            sender.send(number)
            wait_for_packets(attachment.counters, sum(map(total, TRAFFIC[: number + 1])))
            batches = list(kernel.drain(EndReason.INTERVAL_OVER))
            equal("flows", flows_of(batches), Counter(each.flow for each in traffic if each.flow))
            for batch in batches:
                check_constants(batch[0], point, RecordType.FLOW)
            news = kernel.announcements.read(1009)
            first = {
                (*each.flow[:6], *each.flow[7:8], each.source) for each in traffic if each.flow
            }
            equal("announcements", len(news), len(first - announced))
            check_constants(news[0], point, RecordType.NEW_FLOW)
            announced |= first
        equal("flows left", flows_of(kernel.drain(EndReason.FORCED)), Counter())
        equal("overflow records", len(kernel.overflow.read(1009)), 0)
        attachment.detach()
        sender.send(1)
        counts = attachment.counters()
        equal("packets after detaching", counts.seen.packets, sum(map(total, TRAFFIC)))
        equal("non_ip_packets", counts.no_flow["non_ip"].packets, 2 * ARP.copies)
        equal("malformed_packets", counts.no_flow["malformed"].packets, CUT.copies)
        equal("octets", counts.seen.l2_bytes, octets(TRAFFIC[0] + TRAFFIC[1]))
        instructions = verified(attachment.program, point.mode.hook)
        attachment.close()
    return (
        f"load and attach {took * 1e3:.0f} ms, {counts.seen.packets} packets, "
        f"verified in {instructions} instructions"
    )


def check_raw_ip(point: Point, _sender: Sender) -> str:
    """The same packets without their Ethernet headers, on a tun device."""
    line = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(line, TUNSETIFF, struct.pack("=16sH22x", b"tun0", IFF_TUN))
    subprocess.run(["ip", "link", "set", "tun0", "up"], check=True)
    with FlowProbe(max_flows=1009) as kernel:
        attachment = attach_here(kernel, replace(Target.named("tun0", point.mode), raw=True))
        become_nobody()
        traffic = [each for each in TRAFFIC[0] if each.flow and not each.flow[VLAN_ID]]
        for each in traffic:
            for _ in range(each.copies):
                # Flags and EtherType come before what the device receives.
                os.write(line, bytes(2) + each.frame[12:])
        os.write(line, b"\0\0\x08\0")
        os.write(line, b"\0\0\x08\6" + ARP.frame[ETHERNET:])
        wait_for_packets(attachment.counters, total(traffic) + 2)
        expected = Counter(
            (*each.flow[:-1], each.flow[-1] - ETHERNET * each.copies)
            for each in traffic
            if each.flow
        )
        (batch,) = kernel.drain(EndReason.INTERVAL_OVER)
        equal("flows", flows_of([batch]), expected)
        equal("MAC addresses", {bytes(r["src_mac"]) for r in batch}, {bytes(6)})
        counts = attachment.counters()
        equal("malformed_packets", counts.no_flow["malformed"].packets, 1)
        equal("non_ip_packets", counts.no_flow["non_ip"].packets, 1)
        attachment.close()
    return f"{total(traffic)} packets of a tun device"


def verified(program: Program, hook: Hook) -> int:
    """Instructions that the verifier processed; few, since each interface has a load."""
    count: int = libbpf.object_info(ProgInfo, program.fd).verified_insns
    assert 0 < count <= MOST_INSTRUCTIONS[hook], f"verified in {count} instructions"
    return count


def octets(traffic: Iterable[Traffic]) -> int:
    return sum(len(each.frame) * each.copies for each in traffic)


def check_overflow(point: Point, sender: Sender) -> str:
    """With a table of 2 flows the other packets travel through the overflow ring."""
    with FlowProbe(max_flows=2) as kernel:
        attachment = point.attach(kernel)
        become_nobody()
        sender.send(0)
        wait_for_packets(attachment.counters, total(TRAFFIC[0]))
        drained = sum(int(b["packets"].sum()) for b in kernel.drain(EndReason.FORCED))
        spilled = kernel.overflow.read(1009)
        assert drained, "no flow found room in the table"
        equal("end_reason", set(spilled["end_reason"]), {EndReason.LACK_OF_RESOURCES})
        flows = total(each for each in TRAFFIC[0] if each.flow)
        equal("packets drained and spilled", drained + int(spilled["packets"].sum()), flows)
        attachment.close()
    return f"{drained} packets drained, {len(spilled)} through the ring"


def check_counter(point: Point, sender: Sender) -> str:
    began = time.perf_counter()
    with CounterProbe(max_flows=1009) as kernel:
        attachment = point.attach(kernel)
        took = time.perf_counter() - began
        become_nobody()
        for number in range(ROUNDS):
            sender.send(number)
            wait_for_packets(attachment.counters, sum(map(total, TRAFFIC[: number + 1])))
        sources: Counter[int] = Counter()
        for each in TRAFFIC[0] + TRAFFIC[1]:
            if each.source:
                sources[each.source] += each.copies
        equal("sources", attachment.maps.sources(), sources)
        news = attachment.maps.ring.read(1009)["src_addr"][:, 12:]
        equal("announcements", Counter(map(bytes, news)), _each_once(sources))
        counts = attachment.counters()
        equal("counted_packets", counts.no_flow["counted"].packets, sources.total())
        equal("malformed_packets", counts.no_flow["malformed"].packets, CUT.copies)
        attachment.detach()
        sender.send(1)
        equal("packets after detaching", attachment.counters().seen.packets, counts.seen.packets)
    return f"load and attach {took * 1e3:.0f} ms, {counts.seen.packets} packets"


def _each_once(sources: Iterable[int]) -> Counter[bytes]:
    return Counter(source.to_bytes(4, sys.byteorder) for source in sources)


class PinnedRun:
    """A run whose maps stay, attached by an attacher: a process of the pins' owner."""

    def __init__(self, directory: PinDirectory, epoch: int) -> None:
        process = Process()
        self.generation = directory.create(epoch)
        self.kernel = FlowProbe(max_flows=1009, pins=self.generation)
        with BooksMap() as books:
            books.put(7, b"kept")
            self.generation.pin(BOOKS, books.fd)
        self.attacher = Attacher(process, self.kernel, NOBODY)


def run_and_die(point: Point) -> None:
    run = PinnedRun(PinDirectory(f"{PLACE}/flowstream", Owner(*NOBODY)), EPOCH)
    run.attacher.attach(point.target)
    os.kill(os.getpid(), signal.SIGKILL)


def check_pins(point: Point, sender: Sender) -> str:
    """A killed run's program goes on; the next run takes its link over and empties its maps."""
    first = processes.Process(target=run_and_die, args=(point,))
    first.start()
    first.join()
    equal("end of the first run", first.exitcode, -signal.SIGKILL)
    sender.send(0)
    directory = PinDirectory(f"{PLACE}/flowstream", Owner(*NOBODY))
    (earlier,) = open_earlier(directory)
    run = PinnedRun(directory, EPOCH + 1024)
    generation, kernel = run.generation, run.kernel
    (code,) = earlier.codes
    link = earlier.links[code]
    equal("mode of the link", link.mode_here(), point.mode)
    target = replace(point.target, link_fd=link.fd, earlier=LinkPin(EPOCH, code))
    become_nobody()
    attachment = run.attacher.attach(target)
    sender.send(1)
    earlier.freeze()
    equal("books", list(earlier.books.items()), [(7, b"kept")])
    batches = [b for stream, b in earlier.drain(EndReason.FORCED) if stream is Stream.FLOWS]
    equal("flows", flows_of(batches), Counter(each.flow for each in TRAFFIC[0] if each.flow))
    equal("packets", earlier.counters(code).seen.packets, total(TRAFFIC[0]))
    equal("octets", earlier.counters(code).seen.l2_bytes, octets(TRAFFIC[0]))
    earlier.remove()
    wait_for_packets(attachment.counters, total(TRAFFIC[1]))
    batches = list(kernel.drain(EndReason.INTERVAL_OVER))
    equal("new flows", flows_of(batches), Counter(each.flow for each in TRAFFIC[1] if each.flow))
    attachment.detach()
    sender.send(1)
    equal("packets after detaching", attachment.counters().seen.packets, total(TRAFFIC[1]))
    generation.remove()
    equal("generations left", [each.epoch for each in directory.generations()], [])
    return "a killed run's link taken over, its maps emptied without privileges"


def check_filter(point: Point, sender: Sender) -> str:
    """Packets of a source and those with a tag, which at the TC hook is beside the packet."""
    octets_of_program = b"".join(struct.pack("=HBBI", *each) for each in FILTERING)
    packet_filter = PacketFilter(EXPRESSION, octets_of_program)
    with FlowProbe(max_flows=1009, packet_filter=packet_filter) as kernel:
        attachment = point.attach(kernel)
        become_nobody()
        sender.send(0)
        wait_for_packets(attachment.counters, total(TRAFFIC[0]))
        chosen = [TRAFFIC[0][1], TRAFFIC[0][3]]
        batches = list(kernel.drain(EndReason.INTERVAL_OVER))
        equal("flows", flows_of(batches), Counter(each.flow for each in chosen if each.flow))
        left = attachment.counters().no_flow["filtered_out"]
        equal("packets filtered out", left.packets, total(TRAFFIC[0]) - total(chosen))
        equal("octets filtered out", left.l2_bytes, octets(TRAFFIC[0]) - octets(chosen))
        attachment.close()
    return f"{left.packets} of {total(TRAFFIC[0])} packets filtered out"


def check_killed(point: Point, _: Sender) -> str:
    """The case ends by SIGKILL while attached; main looks at what is left."""
    kernel = FlowProbe(max_flows=1009)
    point.attach(kernel)
    become_nobody()
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


CASES: tuple[tuple[str, Callable[[Point, Sender], str], Mode, int], ...] = (
    ("xdp_flow native", check_flow, Mode.NATIVE, INGRESS),
    ("xdp_flow generic", check_flow, Mode.GENERIC, INGRESS),
    ("count_ipv4 native", check_counter, Mode.NATIVE, INGRESS),
    ("count_ipv4 generic", check_counter, Mode.GENERIC, INGRESS),
    ("filter native", check_filter, Mode.NATIVE, INGRESS),
    ("filter generic", check_filter, Mode.GENERIC, INGRESS),
    ("raw IP", check_raw_ip, Mode.GENERIC, INGRESS),
    ("table full", check_overflow, Mode.NATIVE, INGRESS),
    ("killed", check_killed, Mode.NATIVE, INGRESS),
    ("pins native", check_pins, Mode.NATIVE, INGRESS),
    ("pins generic", check_pins, Mode.GENERIC, INGRESS),
)
TC_CASES: tuple[tuple[str, Callable[[Point, Sender], str], Mode, int], ...] = (
    ("tc_flow ingress", check_flow, Mode.TCX, INGRESS),
    ("tc_flow egress", check_flow, Mode.TCX, EGRESS),
    ("tc_counter ingress", check_counter, Mode.TCX, INGRESS),
    ("tc_counter egress", check_counter, Mode.TCX, EGRESS),
    ("TC, filter ingress", check_filter, Mode.TCX, INGRESS),
    ("TC, filter egress", check_filter, Mode.TCX, EGRESS),
    ("TC, table full", check_overflow, Mode.TCX, EGRESS),
    ("TC, killed", check_killed, Mode.TCX, EGRESS),
)
TCX_CASES: tuple[tuple[str, Callable[[Point, Sender], str], Mode, int], ...] = (
    ("TCX, pins ingress", check_pins, Mode.TCX, INGRESS),
    ("TCX, pins egress", check_pins, Mode.TCX, EGRESS),
)
"""On kernels with TCX."""


def run_case(name: str, case: Callable[..., str], point: Point, sending: str) -> None:
    """Body of a case's process."""
    try:
        with closing(Sender(sending)) as sender:
            say(f"ok    {name}: {case(point, sender)}")
    except BaseException as err:
        say(f"FAIL  {name}: {type(err).__name__}: {err}")
        raise


def passed(name: str, case: Callable[..., str], point: Point, sending: str) -> bool:
    """Run one case; whether it held and left nothing on the interface."""
    process = processes.Process(target=run_case, args=(name, case, point, sending))
    process.start()
    process.join(CASE_TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()
        say(f"FAIL  {name}: still running after {CASE_TIMEOUT_S} s")
        return False
    expected = -signal.SIGKILL if case is check_killed else 0
    # The kernel releases a link in its own time.
    deadline = time.monotonic() + TRAFFIC_TIMEOUT_S
    while (left := point.programs()) and time.monotonic() < deadline:
        os.sched_yield()
    if left:
        say(f"FAIL  {name}: programs {left} are still on the interface")
    elif case is check_killed:
        say(f"{'ok  ' if process.exitcode == expected else 'FAIL'}  {name}: nothing is left")
    return process.exitcode == expected and not left


def main(receiving: str, sending: str) -> int:
    """Run every case; exit status 1 when one failed."""
    PLACE.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(PLACE)], check=True)
    cases = CASES + TC_CASES + TCX_CASES * features.has_tcx()
    results = [
        passed(name, case, Point(receiving if way == INGRESS else sending, mode, way), sending)
        for name, case, mode, way in cases
    ]
    subprocess.run(["umount", str(PLACE)], check=True)
    PLACE.rmdir()
    say(f"{sum(results)} of {len(cases)} cases hold on Linux {os.uname().release}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
