"""Faults while a run lasts and while it ends: each step of the end takes place all the same."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time

import pytest
import structlog.testing
from support.agent import FLOWSTREAM, Agent, audit, audited, delivered, last_counters, on
from support.rig import Rig, finals

from flowstream.errors import KernelError

pytestmark = pytest.mark.anyio

PACKETS = 10_007


def refuse(*_: object) -> None:
    raise KernelError("the kernel said no")


async def test_a_drain_that_fails_at_the_end_skips_nothing_after_it(
    recording_url, pairs, monkeypatch
):
    (sender, device), _ = pairs
    rig = Rig(recording_url, interval_s=3600)
    rig.add(device)
    with structlog.testing.capture_logs() as logs:
        async with rig.running(status=1):
            arrived = await asyncio.to_thread(delivered, sender, device, PACKETS)
            monkeypatch.setattr(rig.probe, "drain", refuse)
    assert [each["error"] for each in logs if each["event"] == "a stage failed"] == [
        "the kernel said no"
    ]
    assert logs[-1]["event"] == "ended"
    # The final counters tell what is missing.
    assert await finals(recording_url) == [device.index]
    counters = await asyncio.to_thread(last_counters, recording_url)
    assert counters.seen_packets == arrived
    # The sink is closed: another may write there.
    Rig(recording_url).probe.close()


async def test_final_counters_that_fail_do_not_take_the_others_along(
    recording_url, pairs, monkeypatch
):
    (_, first), (_, second) = pairs
    rig = Rig(recording_url)
    broken = rig.add(first)
    rig.add(second)
    with structlog.testing.capture_logs() as logs:
        async with rig.running(status=1):
            await asyncio.sleep(0)
            monkeypatch.setattr(broken, "counters", refuse)
    assert await finals(recording_url) == [second.index]
    events = [each["event"] for each in logs]
    assert "a stage failed" in events
    assert events[-1] == "ended"


async def test_an_attachment_that_cannot_be_detached_does_not_keep_the_others(
    recording_url, pairs, monkeypatch
):
    (_, first), (sender, second) = pairs
    rig = Rig(recording_url)
    broken, whole = rig.add(first), rig.add(second)
    async with rig.running(status=1):
        arrived = await asyncio.to_thread(delivered, sender, second, PACKETS)
        monkeypatch.setattr(broken, "detach", refuse)
    assert whole._link.fd == -1
    assert await finals(recording_url) == [first.index, second.index]
    _, result = await asyncio.to_thread(audit, recording_url)
    (run,) = result["runs"]
    assert [each["flows"]["packets"] for each in run["interfaces"]] == [0, arrived]


async def test_a_sink_that_fails_to_flush_is_closed_after_the_final_counters(
    recording_url, pairs, monkeypatch
):
    (_, device), _ = pairs
    rig = Rig(recording_url)
    rig.add(device)
    async with rig.running(status=1):
        await asyncio.sleep(0)
        monkeypatch.setattr(rig.sink, "flush", refuse)
    assert await finals(recording_url) == [device.index]


async def test_a_publisher_that_is_gone_does_not_hold_up_the_end(
    recording_url, pairs, monkeypatch
):
    """Its queue is full and nobody reads it: the end gives up when its time is over."""
    (sender, device), _ = pairs
    rig = Rig(recording_url, shutdown_timeout_s=2)
    rig.add(device)
    monkeypatch.setattr("flowstream.pipeline.publisher.QUEUE_BATCHES", 1)
    monkeypatch.setattr(rig.agent._publisher, "run", refuse_later)
    async with rig.running(status=1) as running:
        await asyncio.to_thread(delivered, sender, device, PACKETS, "-f", 1_009)
        await asyncio.wait_for(asyncio.shield(running), 60)
    assert await finals(recording_url) == [device.index]


async def refuse_later(_: object) -> None:
    raise KernelError("the kernel said no")


class BrokenRing:
    """A ring with a wake-up that cannot be read."""

    def __init__(self) -> None:
        self.fd, into = os.pipe()
        os.write(into, b".")
        self.reads = 0

    def read(self, most: int) -> None:
        self.reads += 1
        refuse()


async def test_a_wakeup_that_cannot_be_read_ends_the_run(recording_url, pairs, monkeypatch):
    (_, device), _ = pairs
    rig = Rig(recording_url)
    rig.add(device)
    ring = BrokenRing()
    monkeypatch.setattr(rig.probe, "wakeups", ring)
    with structlog.testing.capture_logs() as logs:
        async with rig.running(status=1) as running:
            await asyncio.wait_for(asyncio.shield(running), 60)
    assert ring.reads == 1
    assert "the kernel said no" in [each.get("error") for each in logs]
    assert await finals(recording_url) == [device.index]


def test_a_sink_that_fails_ends_the_run_promptly(wire, tmp_path):
    sender, receiver = wire
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    options = ("--sink", "stdout:", "--interval", "0.2", "--counters-period", "3600")
    with Agent(*on(receiver), *options, stdout=pipe) as agent:
        agent.publishing()
        os.close(reader)
        delivered(sender, receiver, PACKETS)
        # Well before the counters are due, which would be in an hour.
        assert agent.wait() == 1
        assert [each["error"] for each in agent.logs("a stage failed")] == [
            "stdout: the reader has closed the pipe"
        ]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_other_signals_that_end_processes_end_the_run_in_order(wire, recording_url, number):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--interval", 3600) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        agent.signal(number)
        assert agent.wait() == 0, agent.output()
        assert [each["signal"] for each in agent.logs("stopping")] == [number.name]
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20, 50, 100, 200])
def test_a_signal_at_any_time_after_the_first_attachment_ends_the_run_in_order(
    pairs, recording_url, delay_ms
):
    devices = [device for _, device in pairs]
    with Agent(*on(*devices), "--sink", recording_url) as agent:
        deadline = time.monotonic() + 60
        while not agent.logs("attached"):
            assert time.monotonic() < deadline
        time.sleep(delay_ms / 1000)
        agent.signal(signal.SIGTERM)
        status = agent.wait()
        published = bool(agent.logs("publishing"))
        assert status == (0 if published else 1), agent.output()
        assert agent.logs("stopping")
        event = "ended" if published else "ended before the sink connected: nothing was published"
        assert agent.logs(event)
        assert "Traceback" not in agent.output()


def test_nohup_lets_a_run_outlive_its_terminal(wire, recording_url):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, before=("nohup",)) as agent:
        agent.publishing()
        agent.signal(signal.SIGHUP)
        agent.stop()
        assert [each["signal"] for each in agent.logs("stopping")] == ["SIGTERM"]


def test_a_terminal_that_is_closed_ends_the_run_in_order(wire, recording_url):
    """As a lost ssh session does it: SIGHUP, and nobody reads standard error any more."""
    sender, receiver = wire
    ours, its = os.openpty()
    options = [*on(receiver), "--sink", recording_url, "--interval", "3600"]
    # setsid -c: the terminal on standard input becomes the controlling one.
    agent = subprocess.Popen(
        ["setsid", "--ctty", *FLOWSTREAM, "run", *options], stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    try:
        shown = b""
        while b"publishing" not in shown:
            shown += os.read(ours, 4096)
        arrived = delivered(sender, receiver, PACKETS)
        os.close(ours)
        assert agent.wait(120) == 0
    finally:
        agent.kill()
        agent.wait()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived
