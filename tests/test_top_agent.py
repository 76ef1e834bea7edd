"""flowstream top with an agent of its own: real packets, its privileges, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.agent import FLOWSTREAM, delivered
from support.home import Home
from support.net import namespace, veth_pair
from support.terminal import Terminal

PACKETS = 1_009


@pytest.fixture(scope="module")
def wire():
    with namespace() as here, namespace() as there, veth_pair(there, here) as pair:
        yield pair


def arguments(wire, *options):
    place = wire.receiver.namespace.name
    return ("top", "-i", wire.receiver.name, "--netns", place, *map(str, options))


@contextlib.contextmanager
def documents(wire, *options):
    """Documents of a top that runs, and its process."""
    command = [*FLOWSTREAM, *arguments(wire, *options), "--json", "--period", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield map(json.loads, process.stdout), process
        finally:
            process.kill()


def ended(command):
    """A command that has ended, with what it printed."""
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def children(pid):
    """All processes below one, with their users."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found |= {int(child): user_of(int(child))} | children(int(child))
    return found


def user_of(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^Uid:\t(\d+)\t", status, re.MULTILINE)[1]


def gone(pids):
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process of the agent is left"
        time.sleep(0.02)


def test_the_sums_are_the_packets_that_arrived(wire):
    with documents(wire) as (found, process):
        first = next(found)
        before = first["interfaces"][0]["seen"]["packets"]
        arrived = delivered(*wire, PACKETS, "-f", 101)
        total, new_flows = first["total"]["packets"], first["total"]["new_flows"]
        while total < before + arrived or new_flows < 101:
            each = next(found)
            total += each["total"]["packets"]
            new_flows += each["total"]["new_flows"]
        assert (total, new_flows) == (before + arrived, 101)
        (seen,) = [
            each
            for each in next(found)["interfaces"]
            if (each["direction"], each["interface"]) == ("ingress", wire.receiver.name)
        ]
        assert seen["seen"]["packets"] == before + arrived
        # Nobody has privileges: neither top, nor the agent, nor its attacher.
        below = children(process.pid)
        assert len(below) == 2
        assert "0" not in {user_of(process.pid), *below.values()}
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""
    gone(below)


def test_the_agent_ends_with_a_top_that_is_killed(wire):
    with documents(wire) as (found, process):
        next(found)
        below = children(process.pid)
        process.kill()
    gone(below)


def test_on_a_terminal_and_where_the_user_cannot_read_the_installation(wire, tmp_path):
    """As below /root: nothing is imported once privileges are given up."""
    home = Home(tmp_path / "home")
    command = home.command("-m", "flowstream", *arguments(wire))
    with Terminal(command, env=home.environment) as terminal:
        terminal.wait("no losses")
        delivered(*wire, PACKETS, "-f", 7)
        terminal.wait("rows 1-")
        terminal.keys("?")
        terminal.wait("flowstream top: keys")
        terminal.keys("?", "g", "s", "n", "d", "/")
        terminal.wait("condition, such as")
        terminal.keys("packets > 0\r")
        terminal.wait("by destination, ingress where packets > 0")
        terminal.keys("q")
        assert terminal.ended() == 0
        assert terminal.is_restored
        assert b"Traceback" not in terminal.output
    assert home.late_imports() == []


@pytest.mark.parametrize(
    ("options", "lines"),
    [(("-i", "eth9"), 1), (("-i", "lo", "--filter", "port 22 or nott port 53"), 3)],
    ids=["interface", "filter"],
)
def test_what_the_agent_refuses_is_said_in_its_words(wire, options, lines):
    common = [*options, "--netns", wire.receiver.namespace.name]
    done = ended([*FLOWSTREAM, "top", *common, "--once"])
    plain = ended([*FLOWSTREAM, "run", *common, "--sink", "stdout:", "--log-format", "json"])
    assert done.stdout == ""
    errors = [line for line in plain.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, done.stderr.splitlines()) == (plain.returncode, errors)
    assert done.stderr.startswith("flowstream: error: ")
    assert len(errors) == lines


def test_where_no_interface_matches_a_table_is_empty(wire):
    place = wire.receiver.namespace.name
    done = ended([*FLOWSTREAM, "top", "-i", "none*", "--netns", place, "--once", "--period", "1"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "no_interface_matches" in done.stdout


def test_beside_an_agent_on_the_same_interface(wire):
    with documents(wire) as (found, _), documents(wire, "--hook", "tcx") as (beside, _):
        next(found)
        arrived = delivered(*wire, PACKETS)
        total = 0
        while total < arrived:
            total += next(beside)["total"]["packets"]
        assert total == arrived


def test_without_root_it_says_what_the_agent_says(wire):
    # The installation may be below a directory that only root can enter.
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    other = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *reading)
    done = subprocess.run(
        [*other, *FLOWSTREAM, "top", "-i", "lo", "--once"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"HOME": "/"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("flowstream: error: ")
    assert done.stderr.count("\n") == 1


def test_an_agent_that_is_killed_ends_top_with_a_line(wire):
    with documents(wire) as (found, process):
        next(found)
        agent, *_ = children(process.pid)
        os.kill(agent, signal.SIGKILL)
        assert process.wait(60) == 1
        assert process.stderr.read() == b"flowstream: error: the agent was ended by SIGKILL\n"


def test_an_agent_that_hangs_does_not_hold_up_the_end(wire):
    with documents(wire) as (found, process):
        next(found)
        below = children(process.pid)
        os.kill(next(iter(below)), signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    gone(below)
