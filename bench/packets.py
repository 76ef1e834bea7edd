"""Cost of a packet in the kernel, by BPF_PROG_TEST_RUN."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from support.programs import FlowBench

from bench.feed import V4_TCP, V4_UDP, V6_TCP, PassProgram, run_distinct, run_same
from bench.measure import ROUNDS, Row, Table, interleave
from flowstream.kernel.counter import CounterProbe
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPEAT: Final = 200_000
OVERFLOWS: Final = 50_000
"""Records of one sample that fit into the overflow ring."""
DISTINCT: Final = 8_192
"""New flows of one sample, whose announcements fit into their ring."""
MANY_FLOWS: Final = 100_000
IN_IF: Final = 1
TARGET_NS: Final = 90


def measure() -> Iterator[Table]:
    """Every path through the programs, relative to the empty program."""
    with ExitStack() as stack:
        passing = stack.enter_context(PassProgram())
        yield _same_packet(passing, stack)
        yield _distinct_packets(passing, stack)


def _same_packet(passing: PassProgram, stack: ExitStack) -> Table:
    counter = stack.enter_context(stack.enter_context(CounterProbe()).maps(IN_IF))
    flow = stack.enter_context(FlowBench())
    full = stack.enter_context(FlowBench(max_flows=16))
    run_distinct(full.program.fd, 0, 1_000)
    hits = {"IPv4/UDP": V4_UDP, "IPv4/TCP": V4_TCP, "IPv6/TCP": V6_TCP}
    cases: dict[str, Callable[[], float]] = {
        "XDP_PASS": lambda: run_same(passing.fd, V4_UDP, REPEAT),
        "count_ipv4, known source": lambda: run_same(counter.program.fd, V4_UDP, REPEAT),
    }
    for name, packet in hits.items():
        cases[f"xdp_flow, hit, {name}"] = lambda packet=packet: run_same(  # type: ignore[misc]
            flow.program.fd, packet, REPEAT
        )
    cases["xdp_flow, table full, ring has room"] = lambda: _overflow(full, room=True)
    cases["xdp_flow, table full, ring full"] = lambda: _overflow(full, room=False)
    samples = interleave(cases)
    _check_hits(flow, len(hits))
    base = samples["XDP_PASS"]
    table = Table(f"One packet, {REPEAT:,} times a sample", "ns per packet", "XDP_PASS")
    for name, taken in samples.items():
        hit = ", hit, " in name
        table.rows.append(Row(name, taken, base, TARGET_NS if hit else None, over=hit))
    return table


def _check_hits(flow: FlowBench, flows: int) -> None:
    """Check that every packet was a hit: all of them are in the records of their flows."""
    drained = list(flow.probe.drain(EndReason.INTERVAL_OVER))
    packets = [count for records in drained for count in records["packets"].tolist()]
    if packets != [(ROUNDS + 1) * REPEAT] * flows:
        raise RuntimeError(f"flows of {packets} packets: another path was measured")


def _overflow(full: FlowBench, *, room: bool) -> float:
    """Run a packet that finds the table full; the ring is emptied or filled before."""
    while len(full.probe.overflow.read(OVERFLOWS)):
        pass
    if not room:
        run_same(full.program.fd, V4_TCP, 2 * OVERFLOWS)
    before = full.counters()
    repeat = OVERFLOWS if room else REPEAT
    taken = run_same(full.program.fd, V4_TCP, repeat)
    after = full.counters()
    path = "overflow_packets" if room else "overflow_lost_packets"
    if after[path] - before[path] != repeat:
        raise RuntimeError(f"{path} did not count every packet: another path was measured")
    return taken


def _distinct_packets(passing: PassProgram, stack: ExitStack) -> Table:
    flows = stack.enter_context(FlowBench(max_flows=2 * MANY_FLOWS))
    crowd = stack.enter_context(FlowBench(max_flows=2 * MANY_FLOWS))
    run_distinct(crowd.program.fd, 0, MANY_FLOWS)
    fresh = iter(range(0, (ROUNDS + 1) * DISTINCT, DISTINCT))
    last = 0

    def new_flows() -> float:
        nonlocal last
        _empty(flows)
        last = next(fresh)
        before = flows.counters()["announced"]
        taken = run_distinct(flows.program.fd, last, DISTINCT)
        if flows.counters()["announced"] - before != DISTINCT:
            raise RuntimeError("not every flow was announced: another path was measured")
        return taken

    def known_flows() -> float:
        _empty(flows)
        return run_distinct(flows.program.fd, last, DISTINCT)

    samples = interleave(
        {
            "XDP_PASS": lambda: run_distinct(passing.fd, 0, DISTINCT),
            f"xdp_flow, hit, {MANY_FLOWS:,} flows in the table": lambda: run_distinct(
                crowd.program.fd, MANY_FLOWS // 2, DISTINCT
            ),
            "xdp_flow, miss, first packet ever: announced": new_flows,
            "xdp_flow, miss, first packet since the swap": known_flows,
        }
    )
    return Table(
        f"{DISTINCT:,} different packets, a system call each",
        "ns per packet",
        "XDP_PASS",
        [Row(name, taken, samples["XDP_PASS"]) for name, taken in samples.items()],
        ["includes reading the kernel's clock, and caches that the system call has cooled"],
    )


def _empty(flows: FlowBench) -> None:
    """Empty the table and the rings."""
    for _ in flows.probe.drain(EndReason.INTERVAL_OVER):
        pass
    for ring in (*flows.probe.rings, flows.probe.wakeups):
        while len(ring.read(DISTINCT)):
            pass
