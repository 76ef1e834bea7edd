"""Limits of descriptors and threads: what is missing is named before anything is attached."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import Agent, audited, on
from support.net import namespace

FLOWSTREAM = shlex.join([sys.executable, "-m", "flowstream"])
CAPTURE = Path(__file__).parent / "traces" / "mapi.pcap"
NEEDED = re.compile(
    r"flowstream: error: at least (\d+) file descriptors are needed and (\d+) are allowed: "
    r"raise the hard limit, by ulimit -Hn \1 or LimitNOFILE=\1"
)


def limited(limit: str, command: str) -> tuple[int, list[str]]:
    """Run a command below a limit; return its status and its lines other than logs."""
    done = subprocess.run(
        ["bash", "-c", f"ulimit {limit}; exec {FLOWSTREAM} {command}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert '"attached"' not in done.stderr
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("limit", [16, 18, 22, 40])
def test_too_few_descriptors_for_one_interface(wire, limit):
    options = shlex.join([*on(wire.receiver), "--sink", "stdout:"])
    status, (line,) = limited(f"-n {limit}", f"run {options}")
    assert status == 1
    found = NEEDED.fullmatch(line)
    assert found
    assert int(found[2]) == limit


@pytest.mark.parametrize("command", [f"pcap {CAPTURE} --sink stdout:", "audit file:/nowhere"])
def test_too_few_descriptors_for_other_commands(command):
    status, (line,) = limited("-n 16", command)
    assert status == 1
    assert NEEDED.fullmatch(line)


@pytest.mark.parametrize("direction", ["ingress", "both"])
@pytest.mark.parametrize("program", ["flow", "counter"])
@pytest.mark.parametrize("sink", ["stdout:", "file:{}"])
def test_the_number_that_is_named_suffices(wire, tmp_path, program, sink, direction):
    sink = sink.format(tmp_path / "recording")
    options = [*on(wire.receiver), "--sink", sink, "--program", program, "--duration", "1"]
    options += ["--direction", direction]
    _, (line,) = limited("-n 36", f"run {shlex.join(options)}")
    found = NEEDED.fullmatch(line)
    assert found
    before = ("bash", "-c", f'ulimit -n {found[1]}; exec "$@"', "bash")
    with Agent(*options, before=before) as agent:
        assert agent.wait() == 0, agent.output()


@pytest.mark.parametrize(("program", "each"), [("flow", 3), ("counter", 5)])
def test_each_direction_has_descriptors_of_its_own(wire, program, each):
    def needed(direction: str) -> int:
        options = [*on(wire.receiver), "--sink", "stdout:", "--program", program]
        _, (line,) = limited("-n 36", f"run {shlex.join(options)} --direction {direction}")
        found = NEEDED.fullmatch(line)
        assert found
        return int(found[1])

    assert needed("both") - needed("ingress") == each
    assert needed("egress") == needed("ingress")


def test_many_interfaces(tmp_path):
    with namespace() as place:
        names = [f"many{n}" for n in range(150)]
        for pair in zip(names[::2], names[1::2], strict=True):
            place.run("ip", "link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
        options = [option for name in names for option in ("-i", name)]
        options += ["--netns", place.name, "--mode", "generic", "--sink", "stdout:"]
        status, (line,) = limited("-n 256", f"run {shlex.join(options)}")
        assert status == 1
        found = NEEDED.fullmatch(line)
        assert found
        assert int(found[1]) >= 3 * 150 + 8
        # The soft limit is raised.
        before = ("bash", "-c", 'ulimit -Sn 64; exec "$@"', "bash")
        with Agent(*options, "--duration", 1, before=before) as agent:
            assert agent.wait(120) == 0, agent.output()
            assert len(agent.logs("attached")) == 150


def test_a_limit_of_threads_is_named(wire, recording_url):
    """It holds for the user that the agent becomes, all of its processes together."""
    options = (*on(wire.receiver), "--sink", recording_url, "--user", "54321")
    with Agent(*options, before=("prlimit", "--nproc=1:1")) as agent:
        assert agent.wait() == 1
        (line,) = (each for each in agent.output().splitlines() if not each.startswith("{"))
    assert line == (
        "flowstream: error: 4 threads are needed and cannot be started: ulimit -u allows this "
        "user 1, and a cgroup may limit tasks (TasksMax=, --pids-limit)"
    )


def test_an_interface_that_is_named_twice_by_its_altname(wire, recording_url):
    receiver = wire.receiver
    receiver.namespace.run(
        "ip", "link", "property", "add", "dev", receiver.name, "altname", "alias"
    )
    try:
        options = (*on(receiver), "-i", "alias", "--sink", recording_url)
        with Agent(*options) as agent:
            assert agent.wait() == 2
            assert agent.output() == (
                f"flowstream: error: interface: alias is the same interface as {receiver.name}\n"
            )
        named = ("-i", "alias", "--netns", receiver.namespace.name, "--sink", recording_url)
        with Agent(*named, "--duration", 1) as agent:
            assert agent.wait() == 0, agent.output()
            assert [each["interface"] for each in agent.logs("attached")] == [receiver.name]
        assert [each["if_name"] for each in audited(recording_url)] == [receiver.name]
    finally:
        receiver.namespace.run(
            "ip", "link", "property", "del", "dev", receiver.name, "altname", "alias"
        )
