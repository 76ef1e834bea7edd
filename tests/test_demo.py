"""The demonstration, as it is typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.traffic import wait_until

DEMO = (sys.executable, "-m", "flowstream", "demo")


def namespaces(process: subprocess.Popen[str]) -> list[str]:
    """Namespaces that this demonstration has made and not removed."""
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
def test_it_shows_flows_and_proves_the_count(tmp_path, record_format):
    sink = f"file:{tmp_path}/recording"
    options = ("--duration", "3", "--sink", sink, "--format", record_format)
    with start(*options, tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    assert not namespaces(demo)
    for shown in ("ICMP ", "ICMPv6", "TCP", "UDP", "vlan 42", "10.0.0.1", "[2001:db8::2]:8080"):
        assert shown in output, shown
    assert "every packet is accounted for" in output.lower() or "difference" in output.lower()
    assert "Traceback" not in errors


def test_the_recording_is_its_own_by_default(tmp_path):
    with start("--duration", "1", tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    (recording,) = tmp_path.glob("flowstream-demo-*")
    assert f"file:{recording}" in output.replace("\n", "")


def test_to_a_broker(tmp_path, broker):
    with start("--duration", "2", "--sink", broker.url, tmp_path=tmp_path) as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, errors
    assert "ICMP" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_removes_what_it_made(tmp_path, number):
    with start("--duration", "600", tmp_path=tmp_path) as demo:
        try:
            assert wait_until(lambda: len(namespaces(demo)) == 2, 60)
            # Traffic and agent are there when the pings and the agent run.
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


def test_without_privilege_it_says_so(tmp_path):
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    done = subprocess.run(
        [*nobody, *DEMO, "--duration", "1", "--sink", "file:/tmp/nowhere-flowstream"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "the demo needs root" in done.stderr
    assert "Traceback" not in done.stderr
