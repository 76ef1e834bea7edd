"""The hooks side by side: a packet in the kernel, on a veth, a TCP connection; and attaching.

Where a CPU does everything, the time is that of the sending process: the kernel receives
within it, in a softirq. A kernel with CONFIG_IRQ_TIME_ACCOUNTING counts that apart.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from packets.build import DST_PORT
from support.agent import UNDER_WAY
from support.net import interface, namespace, veth_pair
from support.programs import FlowBench
from support.traffic import flood, wait_until

from bench.feed import V4_TCP, V4_UDP, V6_TCP, PassProgram, run_same
from bench.measure import Row, Samples, Table, interleave
from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.filtering.compiling import compile_here
from flowstream.kernel import libbpf, structures
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Hook, Mode
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.net import Interface, Namespace, Wire

    from flowstream.kernel.packet_filter import PacketFilter

FILTER: Final = "port 443"
PORT: Final = 443
FILTER_NS: Final = 15
REPEAT: Final = 200_000
FLOWS: Final = 1_000
FLOOD: Final = 500_000
LIVE_ROUNDS: Final = 8
LENGTHS: Final = (64, 1_514)
STREAM: Final = 256 << 20
STREAM_ROUNDS: Final = 8
ATTACH_ROUNDS: Final = 15
NS: Final = 1e9
GIB: Final = 1 << 30
SENDER, RECEIVER = "10.79.0.1", "10.79.0.2"


def _to(port: int, packet: bytes) -> bytes:
    """The packet with another destination port."""
    return packet.replace(DST_PORT.to_bytes(2), port.to_bytes(2))


PACKETS: Final = {
    "IPv4/UDP": _to(PORT, V4_UDP),
    "IPv4/TCP": _to(PORT, V4_TCP),
    "IPv6/TCP": _to(PORT, V6_TCP),
}


class Way(NamedTuple):
    """A way to observe: the mode, and the direction at that interface."""

    mode: Mode
    direction: int = INGRESS

    def __str__(self) -> str:
        if self.mode.hook is Hook.TC:
            return f"TCX {'egress' if self.direction == EGRESS else 'ingress'}"
        return f"XDP {self.mode}"


WAYS: Final = (
    Way(Mode.NATIVE),
    Way(Mode.GENERIC),
    Way(Mode.TCX),
    Way(Mode.TCX, EGRESS),
)
NO_PROGRAM: Final = "no program"


def measure() -> Iterator[Table]:
    """Measure each hook without and with a filter."""
    only = compile_here(FILTER)
    yield from _in_the_kernel(only)
    with ExitStack() as stack:
        here, there = stack.enter_context(namespace()), stack.enter_context(namespace())
        wire = stack.enter_context(veth_pair(here, there))
        for length in LENGTHS:
            yield _on_a_veth(wire, length, only)
        yield from _attaching(wire.receiver, only)
    yield _connection()


def _in_the_kernel(only: PacketFilter) -> Iterator[Table]:
    """One packet by BPF_PROG_TEST_RUN; a driver's own work for XDP is not in it."""
    for way in (Way(Mode.AUTO), Way(Mode.TCX), Way(Mode.TCX, EGRESS)):
        name = "XDP" if way.mode.hook is Hook.XDP else str(way)
        with ExitStack() as stack:
            empty = stack.enter_context(PassProgram(way.mode.hook))
            whole, filtered = (
                stack.enter_context(
                    FlowBench(mode=way.mode, direction=way.direction, packet_filter=each)
                )
                for each in (None, only)
            )
            cases: dict[str, Callable[[], float]] = {
                "empty program": partial(run_same, empty.fd, V4_UDP, REPEAT)
            }
            for kind, packet in PACKETS.items():
                for suffix, bench in (("", whole), (f", {FILTER}", filtered)):
                    cases[f"{kind}{suffix}"] = partial(run_same, bench.program.fd, packet, REPEAT)
            other_port = partial(run_same, filtered.program.fd, V4_UDP, REPEAT)
            cases[f"IPv4/UDP to another port, {FILTER}"] = other_port
            samples = interleave(cases)
            _check(filtered, kinds=len(PACKETS))
        table = Table(
            f"{name}: a packet of a known flow, {REPEAT:,} times a sample",
            "ns per packet",
            "empty program; of a filter: the same without",
        )
        for case, taken in samples.items():
            plain = case.removesuffix(f", {FILTER}")
            is_filtered = plain != case and plain in samples
            base = samples[plain if is_filtered else "empty program"]
            target = FILTER_NS if is_filtered else None
            table.rows.append(Row(case, taken, base, target, over=is_filtered))
        yield table


def _check(filtered: FlowBench, kinds: int) -> None:
    """Check that of all packets the filter has rejected those to another port alone."""
    counts = filtered.counters()
    rejected = sum(counts["no_flow_packets"])
    if counts["seen_packets"] != (kinds + 1) * rejected:
        raise RuntimeError(f"{counts}: another path was measured")


@contextmanager
def _observed(
    sender: Interface, receiver: Interface, way: Way, only: PacketFilter | None
) -> Iterator[Callable[[], int]]:
    """Observe one end of a wire; yields a function that returns the packets seen."""
    end = sender if way.direction == EGRESS else receiver
    with FlowProbe(packet_filter=only) as probe:
        with end.namespace.entered():
            target = Target.named(end.name, way.mode, direction=way.direction)
            attachment = attach_here(probe, target)
        with attachment:
            yield lambda: attachment.counters().seen.packets


def _on_a_veth(wire: Wire, length: int, only: PacketFilter) -> Table:
    """All that is done to a packet on its way, by one CPU."""
    cpu = max(os.sched_getaffinity(0))
    # Through the stack: the TC hook is there.
    options = ("-q", "-f", FLOWS, "-l", length, "-P", PORT, "-c", cpu, "-w", UNDER_WAY)

    def taken() -> float:
        report = flood(wire.sender, "-n", FLOOD, *options)
        return float(report["user"] + report["sys"]) * NS / FLOOD

    def observed(way: Way, given: PacketFilter | None) -> float:
        with _observed(*wire, way, given) as seen:
            found = taken()
            if not wait_until(lambda: seen() == FLOOD):
                raise RuntimeError(f"{way} has seen {seen():,} packets of {FLOOD:,}")
            return found

    cases: dict[str, Callable[[], float]] = {NO_PROGRAM: taken}
    for way in WAYS:
        for suffix, given in (("", None), (f", {FILTER}", only)):
            cases[f"{way}{suffix}"] = partial(observed, way, given)
    samples = interleave(cases, LIVE_ROUNDS)
    base = samples[NO_PROGRAM]
    return Table(
        f"Over a veth, packets of {length:,} octets, {FLOOD:,} a sample",
        "ns CPU per packet",
        NO_PROGRAM,
        [Row(name, each, base) for name, each in samples.items()],
    )


def _attaching(device: Interface, only: PacketFilter) -> Iterator[Table]:
    """Maps, program and link of one interface, as each interface has them; and what it costs."""
    verified: dict[str, Samples] = {}

    def sample(probe: FlowProbe, way: Way, name: str) -> float:
        target = Target.named(device.name, way.mode, direction=way.direction)
        began = time.perf_counter()
        with attach_here(probe, target) as attachment:
            took = (time.perf_counter() - began) * 1_000
            info = libbpf.object_info(structures.ProgInfo, attachment.program.fd)
            verified[name] = Samples((info.verified_insns,))
            return took

    with ExitStack() as stack:
        stack.enter_context(device.namespace.entered())
        cases: dict[str, Callable[[], float]] = {}
        for suffix, given in (("", None), (f", {FILTER}", only)):
            probe = stack.enter_context(FlowProbe(packet_filter=given))
            for way in WAYS:
                name = f"{way}{suffix}"
                cases[name] = partial(sample, probe, way, name)
        samples = interleave(cases, ATTACH_ROUNDS)
    first = str(WAYS[0])
    for title, unit, found in (
        ("Attaching to one interface: maps, program and link", "ms", samples),
        ("Instructions that the verifier processed", "instructions", verified),
    ):
        yield Table(title, unit, first, [Row(n, each, found[first]) for n, each in found.items()])


def _connection() -> Table:
    """A veth as containers have it: with segmentation offload, both ends on one CPU."""
    with ExitStack() as stack:
        here, there = stack.enter_context(namespace()), stack.enter_context(namespace())
        sender, receiver = _hosts(here, there)
        listener = stack.enter_context(_listening(there))

        def taken() -> float:
            with _on_one_cpu():
                began = time.process_time()
                _stream(here, listener)
                return (time.process_time() - began) * 1_000 * GIB / STREAM

        def observed(way: Way) -> float:
            with _observed(sender, receiver, way, None):
                return taken()

        cases: dict[str, Callable[[], float]] = {NO_PROGRAM: taken}
        cases |= {str(way): partial(observed, way) for way in WAYS}
        samples = interleave(cases, STREAM_ROUNDS)
    return Table(
        f"TCP over a veth with segmentation offload, {STREAM >> 20} MiB a sample",
        "ms CPU per GiB",
        NO_PROGRAM,
        [Row(name, each, samples[NO_PROGRAM]) for name, each in samples.items()],
    )


def _hosts(here: Namespace, there: Namespace) -> tuple[Interface, Interface]:
    peer = ("peer", "name", "far", "netns", there.name)
    here.run("ip", "link", "add", "near", "type", "veth", *peer)
    for place, name, address in ((here, "near", SENDER), (there, "far", RECEIVER)):
        place.run("ip", "address", "add", f"{address}/24", "dev", name)
        place.run("ip", "link", "set", name, "up")
    return interface(here, "near"), interface(there, "far")


def _listening(place: Namespace) -> socket.socket:
    with place.entered():
        return socket.create_server((RECEIVER, 0))


def _stream(here: Namespace, listener: socket.socket) -> None:
    def send() -> None:
        with here.entered(), socket.create_connection(listener.getsockname()) as connection:
            for _ in range(STREAM >> 20):
                connection.sendall(bytes(1 << 20))

    sending = threading.Thread(target=send)
    sending.start()
    connection, _ = listener.accept()
    with connection:
        room, received = bytearray(1 << 20), 0
        while octets := connection.recv_into(room):
            received += octets
    sending.join()
    if received != STREAM:
        raise RuntimeError(f"{received:,} octets of {STREAM:,} arrived")


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
