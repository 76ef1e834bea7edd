"""What a real agent, and its parts, tell the service manager: sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.agent import Agent, audited, delivered, on
from support.notified import Manager
from support.rig import Rig
from support.traffic import wait_until

from flowstream.host.service_manager import ServiceManager

PACKETS = 10_007
WATCHDOG = "WATCHDOG_USEC=400000"
"""Without a message for 0.4 s the service manager would kill the agent."""
EXTENSION = "EXTEND_TIMEOUT_USEC=30000000"


@pytest.fixture(params=["path", "abstract"])
def manager(request, place):
    with Manager(place / "notify" if request.param == "path" else None) as receiving:
        yield receiving


def test_a_run_says_that_it_is_ready_reads_its_configuration_again_and_ends(
    wire, place, recording_url, manager
):
    sender, receiver = wire
    file = place / "flowstream.toml"
    file.write_text("interval = 0.5\n", encoding="utf-8")
    options = (*on(receiver), "--sink", recording_url, "--config", file)
    with Agent(*options, before=manager.environment()) as agent:
        assert manager.told("READY=1"), agent.output()
        assert agent.logs("attached")
        assert agent.logs("publishing")
        assert wait_until(lambda: manager.statuses[-1].startswith("1 interface: "))
        after = manager.lines[manager.lines.index("READY=1") :]
        assert not [line for line in after if line.startswith("STATUS=starting")]
        arrived = delivered(sender, receiver, PACKETS)
        seen = re.compile(r"1 interface: [\d,]+ packets?/s, [1-9]\d* records?/s; no packet lost")
        assert wait_until(lambda: any(map(seen.fullmatch, manager.statuses))), manager.statuses
        before_us = time.monotonic_ns() // 1000
        agent.signal(signal.SIGHUP)
        assert manager.told("READY=1", times=2), manager.lines
        file.write_text("interval = 'no number'\n", encoding="utf-8")
        agent.signal(signal.SIGHUP)
        assert manager.told("READY=1", times=3), manager.lines
        assert agent.saw("reload_failed", 60)
        agent.stop()
        assert manager.states == ["READY=1", *2 * ["RELOADING=1", "READY=1"], "STOPPING=1"]
        times_us = [int(line[15:]) for line in manager.lines if line.startswith("MONOTONIC_USEC=")]
        assert before_us <= times_us[0] <= times_us[1] <= time.monotonic_ns() // 1000
        # Its attacher has the same command line, and says nothing.
        assert manager.senders == {agent.pid}
        # It was not asked for.
        assert "WATCHDOG=1" not in manager.lines
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_the_attacher_has_no_way_to_the_service_manager(wire, recording_url):
    _, receiver = wire
    with Manager() as manager:
        options = (*on(receiver), "--sink", recording_url)
        with Agent(*options, before=manager.environment()) as agent:
            assert manager.told("READY=1")
            (attacher,) = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
            fds = Path(f"/proc/{attacher}/fd").iterdir()
            sockets = [each for fd in fds if (each := str(fd.readlink())).startswith("socket:")]
            # Its end of the pair by which the agent asks it.
            assert len(sockets) == 1
            agent.stop()


def test_nothing_is_ready_before_the_sink_is_connected(wire, place):
    _, receiver = wire
    file = place / "flowstream.toml"
    file.write_text("interval = 7\n", encoding="utf-8")
    options = (*on(receiver), "--sink", "kafka://127.0.0.1:9", "--config", file)
    with Manager() as manager, Agent(*options, before=manager.environment()) as agent:
        starting = "starting: 1 interface attached, the sink is not connected yet"
        assert wait_until(lambda: starting in manager.statuses), manager.lines
        agent.signal(signal.SIGHUP)
        assert agent.saw("reloaded", 60), agent.output()
        # With pins that may take as long as there is no broker.
        extended = [each for each in manager.messages if EXTENSION in each]
        assert extended == [each for each in manager.messages if f"STATUS={starting}" in each]
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 1
        assert manager.states == ["STOPPING=1"]


def test_spooling_is_ready_and_a_broker_that_hangs_starves_no_watchdog(
    wire, tmp_path, broker_factory
):
    sender, receiver = wire
    broker = broker_factory()
    spool = ("--spool", tmp_path / "spool", "--interval", 0.3)
    options = (*on(receiver), "--sink", broker.url, *spool)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        with (
            Manager() as manager,
            Agent(*options, before=manager.environment(WATCHDOG)) as agent,
        ):
            assert manager.told("READY=1"), agent.output()
            delivered(sender, receiver, PACKETS, "-f", 101)
            waits = re.compile(r".*; no packet lost; [1-9]\d* records in the spool, \d+\.\d MB")
            assert wait_until(lambda: any(map(waits.fullmatch, manager.statuses)))
            assert manager.told("WATCHDOG=1", times=manager.lines.count("WATCHDOG=1") + 9)
            os.kill(broker.pid, signal.SIGCONT)
            assert wait_until(lambda: "spool" not in manager.statuses[-1]), manager.statuses[-1]
            agent.stop()
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def test_an_output_that_takes_nothing_starves_no_watchdog(wire, place):
    """The writing thread waits for its reader; the run ends by a fault, in order."""
    sender, receiver = wire
    pipe = place / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    options = (*on(receiver), "--sink", "stdout:", "--interval", 0.3, "--shutdown-timeout", 1)
    with Manager() as manager:
        before = manager.environment(WATCHDOG)
        with Agent(*options, before=before, stdout=pipe) as agent:
            assert manager.told("READY=1"), agent.output()
            delivered(sender, receiver, PACKETS, "-f", 1009)
            assert manager.told("WATCHDOG=1", times=manager.lines.count("WATCHDOG=1") + 9)
            assert EXTENSION not in manager.lines[manager.lines.index("READY=1") :]
            extended = manager.lines.count(EXTENSION)
            agent.signal(signal.SIGTERM)
            assert manager.told("STOPPING=1")
            # Also while it ends, which takes the second that it has, and may take more.
            assert manager.told("WATCHDOG=1", times=manager.lines.count("WATCHDOG=1") + 2)
            assert manager.told(EXTENSION, times=extended + 2)
            assert agent.wait() == 1
    os.close(reader)


@pytest.mark.anyio
async def test_a_loop_that_hangs_says_nothing(recording_url):
    released = threading.Event()
    with Manager() as manager, ServiceManager(manager.address, 0.02) as watching:
        rig = Rig(recording_url, manager=watching)
        async with rig.running():
            assert await asyncio.to_thread(manager.told, "WATCHDOG=1")
            asyncio.get_running_loop().call_soon(released.wait)
            hung: list[int] = []

            def watch() -> None:
                for _ in range(3):
                    time.sleep(0.2)
                    hung.append(len(manager.receive().messages))
                released.set()

            await asyncio.to_thread(watch)
            assert hung[1] == hung[2]
            assert await asyncio.to_thread(manager.told, "WATCHDOG=1", hung[2] + 1)
        assert manager.states == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-listens", "vsock:2:9", "x" * 200])
def test_a_service_manager_that_is_not_there_disturbs_nothing(wire, recording_url, address):
    sender, receiver = wire
    before = ("env", f"NOTIFY_SOCKET={address}", WATCHDOG)
    with Agent(*on(receiver), "--sink", recording_url, before=before) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        agent.stop()
        assert {each["event"] for each in agent.logs() if each["level"] != "info"} <= {
            "shared_user"
        }
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_a_socket_that_goes_and_comes_back(wire, place, recording_url):
    _, receiver = wire
    # The agent must be able to open it again.
    place.chmod(0o711)
    path = place / "notify"
    with Manager(path) as manager:
        before = manager.environment(WATCHDOG)
        agent = Agent(*on(receiver), "--sink", recording_url, before=before)
        assert manager.told("WATCHDOG=1", times=2), agent.output()
    path.unlink()
    with agent, Manager(path) as successor:
        assert successor.told("WATCHDOG=1", times=2)
        agent.stop()
        assert successor.states == ["STOPPING=1"]


def test_a_change_of_state_that_finds_the_socket_full_is_told_later():
    with Manager() as manager, ServiceManager(manager.address, 30) as sending:
        manager.fill()
        sending.ready()
        with sending.reloading():
            pass
        sending.report("lost")
        assert manager.states == []
        sending.report("better")
        assert manager.receive().messages[-1] == ["READY=1", "STATUS=better", "WATCHDOG=1"]
        sending.report("well")
        assert manager.receive().messages[-1] == ["STATUS=well", "WATCHDOG=1"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
    ],
)
def test_the_watchdog_is_for_this_process_alone(variables, expected):
    assert ServiceManager.of_environment(dict(variables)).watchdog_s == expected


def test_children_do_not_inherit_the_variables():
    code = (
        "import subprocess\n"
        "from flowstream.host.service_manager import ServiceManager\n"
        "print(bool(ServiceManager.of_environment()), flush=True)\n"
        "subprocess.run(['env'], check=True)\n"
    )
    variables = {"NOTIFY_SOCKET": "@somewhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    present, *lines = done.stdout.splitlines()
    assert present == "True"
    assert lines
    assert not [line for line in lines if line.partition("=")[0] in variables]
