"""Flow times in a time namespace, whose boot time differs from that of the kernel programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, delivered, last_counters, on, records_of

from flowstream.errors import KernelError
from flowstream.kernel.clock import namespace_offset_ns

if TYPE_CHECKING:
    from pathlib import Path

PACKETS = 1_009


@pytest.mark.parametrize("ahead_s", [1_000_003, -17])
@pytest.mark.parametrize("program", ["flow", "counter"])
def test_times_are_right_in_a_time_namespace(wire, recording_url, ahead_s, program):
    if time.clock_gettime(time.CLOCK_BOOTTIME) + ahead_s < 0:
        pytest.fail("the machine has just been booted")
    sender, receiver = wire
    unshare = ("unshare", "-T", "--boottime", str(ahead_s), "--monotonic", "0", "--fork")
    options = (*on(receiver), "--sink", recording_url, "--interval", 0.5, "--program", program)
    began = time.time_ns()
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    # unshare passes no signal on: the agent ends by itself.
    with Agent(*options, "--duration", 3, before=unshare) as agent:
        agent.publishing()
        delivered(sender, receiver, PACKETS)
        assert agent.wait() == 0, agent.output()
    ended = time.time_ns()
    audited(recording_url)
    stream = "flows" if program == "flow" else "new_flows"
    for record in records_of(recording_url, f"flowstream.{stream}"):
        assert began < record.time_flow_start_ns <= record.time_flow_end_ns < ended
    counters = last_counters(recording_url)
    assert boot < counters.time_boot_ns < boot + ended - began


def process(directory: Path, offsets: str, own: str, childrens: str) -> Path:
    """As /proc shows a process."""
    (directory / "ns").mkdir()
    (directory / "ns" / "time").symlink_to(own)
    (directory / "ns" / "time_for_children").symlink_to(childrens)
    (directory / "timens_offsets").write_text(offsets)
    return directory


def test_offsets_are_read_in_nanoseconds(tmp_path):
    shown = "monotonic        86400         7\nboottime            -11 999999999\n"
    there = process(tmp_path, shown, "time:[4026532253]", "time:[4026532253]")
    assert namespace_offset_ns(there) == -10_000_000_001


def test_a_namespace_that_only_children_have_is_refused(tmp_path):
    shown = "monotonic 0 0\nboottime 5 0\n"
    there = process(tmp_path, shown, "time:[4026531834]", "time:[4026532253]")
    with pytest.raises(KernelError, match="unshare --fork"):
        namespace_offset_ns(there)


def test_a_kernel_without_time_namespaces(tmp_path):
    assert namespace_offset_ns(tmp_path) == 0
