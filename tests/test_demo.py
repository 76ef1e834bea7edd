"""The demonstration as a user runs it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import audited, carried
from support.published import Published, publish
from support.traffic import wait_until
from support.users import AS_NOBODY

DEMO = (sys.executable, "-m", "flowstream", "demo")
PREFIX = "flowstream-demo"
HOLDS, FAILS = "Every packet is accounted for.", "Not every packet is accounted for."


def verdict(output: str) -> str:
    """The audit's verdict, on a line of its own."""
    (line,) = (line for line in output.splitlines() if line in (HOLDS, FAILS))
    return line


def shown_packets(output: str) -> int:
    """Sum over the flow records that the demonstration printed."""
    lines = re.findall(r"^[\d:]{8} .* -> .* ([\d,]+) packets ", output, re.MULTILINE)
    return sum(int(packets.replace(",", "")) for packets in lines)


def assert_it_counted(output: str, sink: str) -> None:
    """The printed records, the topic and the audit agree on the packets."""
    assert verdict(output) == HOLDS
    (interface,) = audited(sink, PREFIX)
    packets = interface["flows"]["packets"]
    assert packets > 0
    assert sum(carried(sink, PREFIX).values()) == packets
    assert shown_packets(output) == packets


def namespaces(process: subprocess.Popen[str]) -> list[str]:
    """Namespaces that this demonstration made and has not removed."""
    return [path.name for path in Path("/run/netns").glob(f"flowstream-*-{process.pid}")]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start(*options: str | Path, tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DEMO, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "TMPDIR": str(tmp_path)},
    )


@pytest.mark.parametrize("record_format", ["json", "msgpack"])
def test_it_shows_flows_and_verifies_the_count(tmp_path, record_format):
    sink = f"file:{tmp_path}/recording"
    options = ("--duration", "3", "--sink", sink, "--format", record_format)
    with start(*options, tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    assert not namespaces(demo)
    for shown in ("ICMP ", "ICMPv6", "TCP", "UDP", "vlan 42", "10.0.0.1", "[2001:db8::2]:8080"):
        assert shown in output, shown
    assert_it_counted(output, sink)
    assert errors == ""


def test_a_closed_pipe_is_quiet(tmp_path):
    with start("--duration", "3", tmp_path=tmp_path) as demo:
        demo.stdout.close()
        assert demo.stderr.read() == ""
        assert demo.wait(60) == 141
    assert not namespaces(demo)


def test_a_count_that_does_not_hold_fails(tmp_path):
    """The sink holds another run with a loss that its counters hide."""
    sink = tmp_path / "recording"
    tampered = Published()
    tampered.change_counters(1, losses={})
    asyncio.run(publish(f"file:{sink}", "json", tampered))
    for path in sink.glob("flowstream.*"):
        path.rename(path.with_name(path.name.replace("flowstream", PREFIX, 1)))
    with start("--duration", "1", "--sink", f"file:{sink}", tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 1, errors
    assert verdict(output) == FAILS
    assert shown_packets(output) > 0


def test_the_default_sink_is_a_new_directory(tmp_path):
    with start("--duration", "1", tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    (recording,) = tmp_path.glob("flowstream-demo-*")
    assert f"file:{recording}" in output.replace("\n", "")
    assert_it_counted(output, f"file:{recording}")


def test_to_a_broker(tmp_path, broker):
    with start("--duration", "2", "--sink", broker.url, tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    assert "ICMP" in output
    assert verdict(output) == HOLDS
    assert shown_packets(output) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_an_interrupt_removes_the_network(tmp_path, number):
    with start("--duration", "600", tmp_path=tmp_path) as demo:
        try:
            assert wait_until(lambda: len(namespaces(demo)) == 2, 60)
            # Two pings and the agent: everything has started.
            assert wait_until(lambda: len(children(demo.pid)) >= 3, 60)
            started = children(demo.pid)
            demo.send_signal(number)
            _, errors = demo.communicate(timeout=100)
        finally:
            demo.kill()
    assert demo.returncode == 130
    assert "Traceback" not in errors
    assert not namespaces(demo)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def test_what_a_killed_demo_leaves_is_removed_by_the_next_one(tmp_path):
    with start("--duration", "5", tmp_path=tmp_path) as killed:
        assert wait_until(lambda: len(namespaces(killed)) == 2, 60)
        assert wait_until(lambda: len(children(killed.pid)) >= 3, 60)
        started = children(killed.pid)
        killed.kill()
    assert len(namespaces(killed)) == 2
    with start("--duration", "20", tmp_path=tmp_path) as running:
        try:
            assert wait_until(lambda: not namespaces(killed), 60)
            # One that runs keeps its own.
            assert wait_until(lambda: len(namespaces(running)) == 2, 60)
            with start("--duration", "1", tmp_path=tmp_path) as other:
                _, errors = other.communicate(timeout=100)
            assert other.returncode == 0, errors
            assert len(namespaces(running)) == 2
            running.send_signal(signal.SIGTERM)
            running.communicate(timeout=100)
        finally:
            running.kill()
    assert not namespaces(running)
    # The pings at once, the agent after its time.
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 100)


def test_missing_privileges_are_named(tmp_path):
    done = subprocess.run(
        [*AS_NOBODY, *DEMO, "--duration", "1", "--sink", "file:/tmp/nowhere-flowstream"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "the demo needs root" in done.stderr
    assert "Traceback" not in done.stderr
