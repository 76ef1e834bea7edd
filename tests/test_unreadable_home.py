"""Installed where ``--user`` cannot read, as below /root: all code is loaded beforehand."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packets.pcap_files import pcap
from support.agent import audit, audited, carried, delivered
from support.home import Home
from support.net import namespace, veth_pair
from support.pcap_runs import packets
from support.scraping import OPENMETRICS, free_port, get, scrape

if TYPE_CHECKING:
    from collections.abc import Sequence

ANNOYANCES = ("Traceback", "exception", "Error", 'failed"', "warning", "denied")


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def pair():
    """Two interfaces of one namespace, and a sender to the second one."""
    with namespace() as here, namespace() as there, veth_pair(there, here) as wire:
        yield wire


@contextmanager
def traffic(pair):
    """Packets on both interfaces, as long as the block lasts; 1,009 are flows of their own."""
    place = pair.receiver.namespace
    with place.popen("ping", "-q", "-i", "0.05", "127.0.0.1", stdout=subprocess.DEVNULL) as ping:
        try:
            delivered(*pair, 1009, "-f", 1009)
            yield
        finally:
            ping.kill()


def arguments(pair, *options: str) -> list[str]:
    """Of ``flowstream run`` on both interfaces."""
    where = ("-i", "lo", "-i", pair.receiver.name, "--netns", pair.receiver.namespace.name)
    fast = ("--mode", "generic", "--interval", "0.3", "--counters-period", "0.3")
    return ["run", *where, *fast, *options]


@contextmanager
def publishing(home: Home, pair, *options: str, command: Sequence[str] = ("-m", "flowstream")):
    """An agent that publishes, under traffic; it is killed at the end of the block."""
    with home.popen(*command, *arguments(pair, *options)) as process:
        try:
            before = list(
                itertools.takewhile(lambda line: "publishing" not in line, process.stderr)
            )
            assert process.poll() is None, "".join(before)
            with traffic(pair):
                yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], home: Home, status: int = 0) -> tuple[str, str]:
    """Output and log of a run that has ended; it imported nothing late."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert home.late_imports() == [], errors
    return output, errors


def run(home: Home, pair, *options: str) -> str:
    """Run the agent for a second under traffic, without a complaint; return its output."""
    with publishing(home, pair, *options) as process:
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        output, errors = ended(process, home)
    for bad in ANNOYANCES:
        assert bad not in errors, errors
    return output


def test_nobody_can_read_it(home):
    code = """
import os, flowstream, json, aiokafka
print(flowstream.__file__, json.__file__, aiokafka.__file__)
os.setuid(65534)
try:
    import wave
except ImportError:
    pass
import wave
"""
    done = home.run("-c", code)
    assert len(done.stdout.split()) == 3
    assert all(Path(path).is_relative_to(home.path) for path in done.stdout.split())
    assert "ImportError: wave is imported after root was given up" in done.stderr
    assert home.late_imports() == ["wave", "wave"]


FORMATS = {
    "json": ("--format", "json"),
    "json, community id": ("--format", "json", "--community-id"),
    "json, few records": ("--format", "json", "--max-records", "10"),
    "json, small recording": ("--format", "json", "--recording-size", "10MB"),
    "msgpack": ("--format", "msgpack"),
    "msgpack, few records": ("--format", "msgpack", "--max-records", "10"),
    "protobuf": ("--format", "protobuf", "--community-id"),
    "protobuf, registry": ("--format", "protobuf", "--registry", "URL"),
    "avro": ("--format", "avro", "--registry", "URL"),
}


RUNS = [(sink, name) for sink in ("file", "kafka") for name in FORMATS]
RUNS.remove(("kafka", "json, small recording"))


@pytest.mark.parametrize("program", ["flow", "counter"])
@pytest.mark.parametrize(("sink", "form"), RUNS)
def test_a_run_publishes_to_its_end(home, pair, registry, request, sink, form, program):
    url, prefix = f"file:{home.path}/recording", f"home.{time.time_ns()}"
    if sink == "kafka":
        url = request.getfixturevalue("broker").url
    options = [registry.url if option == "URL" else option for option in FORMATS[form]]
    run(home, pair, *options, "--program", program, "--sink", url, "--topic-prefix", prefix)
    interfaces = audited(url, prefix)
    assert len(interfaces) == 2
    if program == "flow":
        published = sum(interface["flows"]["packets"] for interface in interfaces)
        assert published == sum(carried(url, prefix).values()) >= 1009


@pytest.mark.parametrize("names", ["goflow2", "ecs", "netobserv"])
def test_lines_are_written_to_the_end(home, pair, names):
    output = run(home, pair, "--sink", "stdout:", "--names", names, "--log-format", "console")
    assert all(map(json.loads, output.splitlines()))
    assert len(output.splitlines()) > 1009


@pytest.mark.parametrize("sink", ["file", "stdout"])
def test_a_signal_ends_it(home, pair, sink):
    url = {"file": f"file:{home.path}/recording", "stdout": "stdout:"}[sink]
    with publishing(home, pair, "--sink", url) as process:
        process.send_signal(signal.SIGTERM)
        ended(process, home)


@pytest.fixture
def lost(broker_factory):
    """A broker that the test loses."""
    return broker_factory()


def test_a_second_signal_ends_it_at_once(home, pair, lost):
    with publishing(home, pair, "--sink", lost.url) as process:
        os.kill(lost.pid, signal.SIGSTOP)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        said = next(line for line in process.stderr if "stopping" in line)
        process.send_signal(signal.SIGINT)
        _, errors = ended(process, home, status=1)
        os.kill(lost.pid, signal.SIGCONT)
    assert "second signal" in errors, said


def test_a_lost_broker(home, pair, lost):
    with publishing(home, pair, "--sink", lost.url, "--shutdown-timeout", "1") as process:
        lost.stop(signal.SIGKILL)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        ended(process, home, status=1)


def test_a_broker_that_returns(home, pair, lost):
    with publishing(home, pair, "--sink", lost.url) as process:
        lost.restart(signal.SIGKILL)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        ended(process, home)


def test_a_spool_is_filled_and_drained(home, pair, lost):
    spool = ("--spool", f"{home.path}/spool", "--topic-prefix", "home.spool")
    lost.stop(signal.SIGKILL)
    with publishing(home, pair, "--sink", lost.url, *spool) as process:
        assert any("spooling" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        ended(process, home)
    lost.start()
    with publishing(home, pair, "--sink", lost.url, *spool) as process:
        assert any("spool_drained" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        ended(process, home)
    status, accounts = audit(lost.url, "home.spool")
    assert (status, len(accounts["runs"])) == (0, 2)


def test_a_bug_ends_it_with_a_traceback(home, pair):
    code = """
import sys
from flowstream.cli.main import main
from flowstream.encode.json_encoder import JsonEncoder
def bug(*_):
    return {}["a bug"]
JsonEncoder.encode = bug
sys.exit(main(sys.argv[1:]))
"""
    sink = ("--sink", f"file:{home.path}/recording")
    with publishing(home, pair, *sink, command=("-c", code)) as process:
        _, errors = ended(process, home, status=1)
    assert "KeyError: 'a bug'" in errors


CAPTURES = [
    *(("file", name) for name in FORMATS if "few" not in name and "small" not in name),
    *(("stdout", name) for name in ("json", "json, community id")),
]


@pytest.mark.parametrize(("sink", "form"), CAPTURES)
def test_captures_are_published(home, registry, sink, form):
    file = home.path / "capture.pcap"
    file.write_bytes(pcap(packets(101)))
    url = {"file": f"file:{home.path}/recording", "stdout": "stdout:"}[sink]
    options = [registry.url if option == "URL" else option for option in FORMATS[form]]
    done = home.run("-m", "flowstream", "pcap", str(file), "--sink", url, *options)
    assert (done.returncode, home.late_imports()) == (0, []), done.stderr
    if sink == "file":
        (interface,) = audited(url)
        assert interface["flows"]["packets"] == 101


def test_the_demonstration_verifies_the_count(home):
    sink = f"file:{home.path}/recording"
    done = home.run("-m", "flowstream", "demo", "--duration", "1", "--sink", sink)
    assert (done.returncode, done.stderr, home.late_imports()) == (0, "", [])
    assert "\nEvery packet is accounted for.\n" in done.stdout
    (interface,) = audited(sink, "flowstream-demo")
    assert interface["flows"]["packets"] == sum(carried(sink, "flowstream-demo").values()) > 0


def test_progress_is_shown_on_a_terminal(home):
    file = home.path / "capture.pcap"
    file.write_bytes(pcap(packets(101)))
    master, slave = pty.openpty()
    command = ("-m", "flowstream", "pcap", str(file), "--sink", f"file:{home.path}/recording")
    with home.popen(*command, stderr=slave) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(master, 1 << 16):
                shown += part
        assert process.wait(60) == 0, shown.decode()
    os.close(master)
    assert home.late_imports() == [], shown.decode()
    assert b"capture.pcap" in shown


def test_metrics_and_health(home, pair, recording_url):
    port = free_port()
    options = ("--sink", recording_url, "--metrics", f"127.0.0.1:{port}", "--log-format", "json")
    with publishing(home, pair, *options) as process:
        for headers in ({}, OPENMETRICS):
            scrape(port, headers).require_equation()
        assert get(port, "/readyz").status == 200
        assert get(port, "/nothing").status == 404
        process.send_signal(signal.SIGTERM)
        ended(process, home)
