"""Commands whose standard streams are closed or unbuffered: they work, or say so in one line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import audited, on
from support.published import Published, publish
from support.traffic import wait_until

FLOWSTREAM = shlex.join([sys.executable, "-m", "flowstream"])
CLOSED = "flowstream: error: standard output is closed\n"
CAPTURE = Path(__file__).parent / "traces" / "mapi.pcap"


def shell(command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    url = f"file:{tmp_path_factory.mktemp('published')}/recording"
    asyncio.run(publish(url, "json", Published()))
    return url


@pytest.mark.parametrize(
    "arguments",
    ["--version", "--help", "run --help", "schema json", "check", "audit {}", "audit --json {}"],
)
def test_output_that_nobody_can_read_is_an_error(published, arguments):
    done = shell(f"{FLOWSTREAM} {arguments.format(published)} >&-")
    assert done.stderr == CLOSED
    assert done.returncode == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_was_not_taken_whole_is_no_success(published, unbuffered):
    """PYTHONUNBUFFERED is set in most containers: a write may then be a part."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {FLOWSTREAM} report {published} -o -"],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        bufsize=0,
    )
    # More than a pipe holds follows.
    assert process.stdout.read(9) == b"<!DOCTYPE"
    process.stdout.close()
    assert process.wait(60) == 141


def test_commands_that_print_nothing_do_not_need_it(recording_url):
    done = shell(f"{FLOWSTREAM} pcap {CAPTURE} --sink {recording_url} >&-")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_the_agent_runs_without(wire, recording_url, closed):
    options = shlex.join([*on(wire.receiver), "--sink", recording_url, "--duration", "1"])
    done = shell(f"{FLOWSTREAM} run {options} {closed}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    audited(recording_url)


def test_nothing_that_is_opened_takes_the_place_of_a_closed_stream(wire, recording_url):
    """Else a library's message would end up in a recording, or in a map's descriptor."""
    options = shlex.join([*on(wire.receiver), "--sink", recording_url])
    command = f"exec {FLOWSTREAM} run {options} <&- >&- 2>&-"
    with subprocess.Popen(["sh", "-c", command]) as agent:
        try:
            files = Path(f"/proc/{agent.pid}/fd")
            assert wait_until(lambda: any(".log" in each for each in opened(files).values()), 60)
            assert [opened(files)[number] for number in "012"] == ["/dev/null"] * 3
            signalled = Path(f"/proc/{agent.pid}/status")
            assert wait_until(lambda: catches(signalled.read_text(), signal.SIGTERM), 60)
        finally:
            agent.terminate()
    assert agent.returncode == 0


def catches(status: str, number: signal.Signals) -> bool:
    (mask,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> number - 1 & 1)


def opened(files: Path) -> dict[str, str]:
    found = {}
    for each in files.iterdir():
        # It may be closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found[each.name] = str(each.readlink())
    return found


@pytest.mark.parametrize("command", ["run -i lo", "pcap {}"])
def test_a_sink_that_is_a_closed_stream_is_refused_before_anything_else(command):
    done = shell(f"{FLOWSTREAM} {command.format(CAPTURE)} --sink stdout: >&-")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert lines == ["flowstream: error: stdout: standard output is closed; open it"]
    assert done.returncode == 1
    assert '"attached"' not in done.stderr


def test_errors_that_nobody_can_read_do_not_go_to_the_output():
    done = shell(f"{FLOWSTREAM} audit file:/nowhere 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
