"""Runs the whole agent on this machine: under load on every CPU, with full rings, by every hook.

    python3 agent.py        (as root, in a guest)

It prints a line per check and exits with 1 when one failed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numbered
import numpy as np
from check import equal, say
from recorded import FLOWSTREAM, Agent, audit, finals, records_of, total, wait_until
from skbs import statistic

from flowstream.accounting.terms import ANNOUNCEMENT_LOST, OVERFLOW_LOST
from flowstream.kernel import features, libbpf
from flowstream.kernel.flow_maps import OVERFLOW_SIZE
from flowstream.layouts.flow import FLOW_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RECEIVING, SENDING = "loaded", "loading"
PACKETS: Final = 80_021
"""Of all senders under load."""
SENDERS: Final = 4
"""At most, for a ring's lock: emulated CPUs that are more than the host's spin for it in turn."""
RING_RECORDS: Final = OVERFLOW_SIZE // ((FLOW_RECORD.itemsize + 7) // 8 * 8 + 8)
"""Records that fit into the ring, each with its header."""
PLACE: Final = Path("/tmp/bpf")
NO_ROOM: Final = 16
"""Flows of the smallest table: nearly every packet becomes a record of its own."""


def sent(shares: list[NDArray[np.uint64]]) -> int:
    """Send shares at once, each from a CPU; return how many packets, when they are received."""
    before, dropped = statistic(RECEIVING, "rx_packets"), statistic(SENDING, "tx_dropped")
    numbered.send_on_cpus(SENDING, shares)
    packets = sum(map(len, shares)) - (statistic(SENDING, "tx_dropped") - dropped)
    wait_until(lambda: statistic(RECEIVING, "rx_packets") - before == packets, "receiving")
    return packets


def shares_of(packets: int, senders: int, first: int = 0) -> list[NDArray[np.uint64]]:
    """As many numbers for each sender, from ``first`` on, none twice."""
    return [
        np.arange(first + n * packets, first + (n + 1) * packets, dtype=np.uint64)
        for n in range(senders)
    ]


def cpus() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0))


def check_each_once(sink: str, packets: int) -> str:
    """See that each of these packets, of a flow of its own, is one record and one announcement.

    Or that the kernel has counted them as lost: nothing else may lose any.
    """
    audit(sink)
    (final,) = finals(sink)
    equal("packets seen", final.seen_packets, packets)
    lost = {cause: each.records for cause, each in final.losses.items() if each.records}
    results = []
    for topic, cause in (("flows", OVERFLOW_LOST), ("new_flows", ANNOUNCEMENT_LOST)):
        numbers = numbered.check(records_of(sink, topic))
        equal(f"{topic} that came twice", len(numbers) - len(np.unique(numbers)), 0)
        missing = lost.pop(cause, 0)
        equal(f"{topic}, published and lost", len(numbers) + missing, packets)
        results.append(f"{len(numbers)} {topic} intact and {missing} counted as lost")
    equal("other losses", lost, {})
    return ", ".join(results)


def check_load() -> str:
    """Every packet is a record that went through the ring while several CPUs wrote there."""
    with Agent("-i", RECEIVING, "--max-flows", NO_ROOM) as agent:
        senders = min(cpus(), SENDERS)
        shares = shares_of(PACKETS // senders, senders)
        packets = sent(shares)
        agent.stop()
    accounted = check_each_once(agent.sink, packets)
    numbers = numbered.check(records_of(agent.sink))
    assert np.isin(numbers, np.concatenate(shares)).all()
    return f"{packets} packets of {len(shares)} CPUs, {accounted}"


def check_full_ring() -> str:
    """An agent that is stopped for a while loses what the ring cannot hold, and counts it."""
    with Agent("-i", RECEIVING, "--max-flows", NO_ROOM) as agent:
        agent.process.send_signal(signal.SIGSTOP)
        senders = min(cpus(), SENDERS)
        packets = sent(shares_of(RING_RECORDS // senders + 1_009, senders))
        agent.process.send_signal(signal.SIGCONT)
        agent.stop()
    accounted = check_each_once(agent.sink, packets)
    records = len(records_of(agent.sink))
    assert RING_RECORDS - 1 <= records < packets, "the ring was not used up"
    return accounted


def check_swaps() -> str:
    """Flows that go on while tables are swapped, early and each second: right to the packet."""
    with Agent("-i", RECEIVING, "--max-flows", 1_024) as agent:
        known, rounds = 701, 23
        shares = [
            np.tile(np.arange(first, first + known, dtype=np.uint64), rounds)
            for first in range(0, 350 * cpus(), 350)
        ]
        packets = sent(shares)
        agent.stop()
    audit(agent.sink)
    records = records_of(agent.sink)
    numbers = numbered.check(records)
    found = np.bincount(numbers.astype(np.intp), weights=records["packets"].astype(float))
    expected = np.bincount(np.concatenate(shares).astype(np.intp))
    if packets == sum(map(len, shares)):
        assert (found == expected).all(), "a flow has other packets than were sent"
    equal("packets", int(records["packets"].sum()), packets)
    drains = len(np.unique(records["time_received_ns"]))
    assert drains > 2
    return f"{packets} packets of {len(expected)} flows in {len(records)} records"


def check_directions() -> str:
    """Both directions, with a filter."""
    accepted = "udp and src net 0.0.0.0/22"
    with Agent("-i", RECEIVING, "--direction", "both", "--filter", accepted) as agent:
        numbers = np.arange(1_000, 1_061, dtype=np.uint64)
        arrived = sent([numbers, numbers + np.uint64(7)])
        numbered.send(RECEIVING, numbers[:17])
        agent.stop()
    audit(agent.sink)
    records = records_of(agent.sink)
    numbered.check(records)
    inward, outward = (
        int(records["packets"][records["flow_direction"] == way].sum()) for way in (0, 1)
    )
    equal("packets of either direction", (inward, outward), (24 + 17, 17))
    counts = {each.flow_direction: each for each in finals(agent.sink)}
    equal("seen", (counts[0].seen_packets, counts[1].seen_packets), (arrived, 17))
    rejected = counts[0].no_flow["filtered_out"].packets
    equal("rejected", rejected, arrived - inward)
    modes = counts[0].attach_mode, counts[1].attach_mode
    equal("modes", modes, ("native", "tcx" if features.has_tcx() else "clsact"))
    return (
        f"{inward} packets received ({modes[0]}), {outward} sent ({modes[1]}), {rejected} rejected"
    )


def check_pins() -> str:
    """A killed agent's programs go on, and the next agent goes on with their counts."""
    options = ["-i", RECEIVING, "--pin", f"{PLACE}/flowstream"]
    options += ["--direction", "both"] * features.has_tcx()
    with Agent(*options) as agent:
        packets = sent(shares_of(101, cpus()))
        wait_until(lambda: total(agent.sink) == packets, "publishing")
        agent.stop(signal.SIGKILL, -signal.SIGKILL)
    packets += sent(shares_of(103, cpus(), 10_000))
    with Agent(*options, sink=agent.sink) as second:
        packets += sent(shares_of(107, cpus(), 20_000))
        second.stop()
    # Publishes what is still in the kernel, and the final counters.
    with Agent("-i", "none*", *options[2:], sink=agent.sink) as last:
        wait_until(lambda: '"run_closed"' in last.log(), "closing the runs")
        last.stop()
    audit(agent.sink)
    numbered.check(records_of(agent.sink))
    equal("packets", total(agent.sink), packets)
    detach = [*FLOWSTREAM, "detach", f"{PLACE}/flowstream"]
    done = subprocess.run(detach, capture_output=True, text=True, check=False)
    equal("flowstream detach", (done.returncode, done.stderr), (0, ""))
    return f"{packets} packets before, between and after a SIGKILL"


def check_demo() -> str:
    done = subprocess.run(
        [*FLOWSTREAM, "demo", "--duration", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^holds: .*$", done.stdout, re.MULTILINE)
    assert found
    return found[0]


CASES: Final[tuple[tuple[str, Callable[[], str]], ...]] = (
    ("demo", check_demo),
    ("load", check_load),
    ("full ring", check_full_ring),
    ("swaps", check_swaps),
    ("both directions, filter", check_directions),
    ("pins", check_pins),
)


def passed(name: str, case: Callable[[], str]) -> bool:
    began = time.monotonic()
    try:
        result = case()
    except Exception as err:  # noqa: BLE001 - the other cases still run
        say(f"FAIL  {name}: {type(err).__name__}: {err}")
        return False
    say(f"ok    {name}: {result} ({time.monotonic() - began:.0f} s)")
    return True


def prepare() -> None:
    """Make a quiet veth pair, and a BPF file system."""
    for name, value in (
        ("kernel/unprivileged_bpf_disabled", "2"), ("net/ipv6/conf/default/disable_ipv6", "1")
    ):  # fmt: skip
        Path("/proc/sys", name).write_text(value)
    PLACE.mkdir()
    for command in (
        f"ip link add {RECEIVING} type veth peer name {SENDING}",
        f"ip link set {RECEIVING} up",
        f"ip link set {SENDING} up",
        f"mount -t bpf bpf {PLACE}",
    ):
        subprocess.run(command.split(), check=True)


def main() -> int:
    """Run every case; exit status 1 when one failed."""
    prepare()
    results = [passed(name, case) for name, case in CASES]
    page = os.sysconf("SC_PAGE_SIZE")
    say(
        f"{sum(results)} of {len(CASES)} cases of the agent hold on Linux {os.uname().release}, "
        f"{os.uname().machine}: {cpus()} of {libbpf.possible_cpus()} CPUs, pages of {page} octets"
    )
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
