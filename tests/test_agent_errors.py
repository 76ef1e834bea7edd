"""Obstacles to a start are reported in one line, before anything is attached."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audited, delivered, last_counters, on
from support.net import Interface, namespace, veth_pair
from support.traffic import wait_until
from support.users import AS_NOBODY

from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR = "flowstream: error: "


@pytest.fixture
def loopback() -> Iterator[Interface]:
    """A device whose driver has no native XDP."""
    with namespace() as place:
        yield Interface(place, "lo", 1)


def complaint(*options: str | float, before: tuple[str, ...] = ()) -> str:
    """Run the agent, which must fail at once with one line; return the line."""
    with Agent(*options, before=before) as agent:
        status = agent.wait()
        lines = agent.output().splitlines()
    assert status == 1, lines
    told = [line for line in lines if not line.startswith("{")]
    assert len(told) == 1, lines
    assert told[0].startswith(ERROR)
    assert not any('"exception"' in line for line in lines)
    return told[0].removeprefix(ERROR)


def test_a_missing_interface_is_reported_with_the_existing_ones(wire, recording_url):
    _, receiver = wire
    text = complaint("-i", "nowhere", "--netns", receiver.namespace.name, "--sink", recording_url)
    assert text == "no interface 'nowhere'; there are: far, lo"


def test_a_missing_namespace(recording_url):
    text = complaint("-i", "lo", "--netns", "nowhere", "--sink", recording_url)
    assert text.startswith("no network namespace 'nowhere'; there are: ")


def test_another_program_is_reported_by_name_and_id(wire, recording_url):
    _, receiver = wire
    with CounterProbe() as other:
        with receiver.namespace.entered():
            attachment = other.attach(receiver.name, Mode.NATIVE)
        name, number = attachment.program.name, attachment.program.id
        text = complaint(*on(receiver), "--sink", recording_url)
        assert f"program {name} (id {number}) is already there" in text
        assert receiver.name in text
        attachment.close()
    # Once it is detached, the agent can attach.
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing().stop()


def test_a_driver_with_too_few_queues_gets_generic_mode(recording_url):
    """A veth returns ENOSPC when its peer has more transmit queues than it has receive queues."""
    shape = ("numrxqueues", "1", "numtxqueues", "1")
    peer = ("numrxqueues", "4", "numtxqueues", "4")
    with namespace() as place:
        place.run(
            "ip", "link", "add", "few", *shape, "type", "veth", "peer", "name", "many", *peer
        )
        for name in ("few", "many"):
            place.run("ip", "link", "set", name, "up")
        where = ("-i", "few", "--netns", place.name, "--sink", recording_url)
        assert "--mode generic" in complaint(*where, "--mode", "native")
        with Agent(*where) as agent:
            (attached,) = agent.publishing().logs("attached")
            agent.stop()
        assert attached["mode"] == "generic"


def test_a_signal_before_the_sink_connected_is_a_failure(wire):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", "kafka://127.0.0.1:1") as agent:
        assert agent.saw("attached", 60)
        # It handles signals only after it has dropped its privileges.
        assert wait_until(
            lambda: any(int(mask, 16) >> signal.SIGTERM - 1 & 1 for mask in agent.status("SigCgt"))
        )
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 1
        (ended,) = agent.logs("ended before the sink connected: nothing was published")
    assert ended["flow_records"] == 0


def test_the_second_of_two_agents_reports_the_first(wire, recording_url, tmp_path):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as first:
        (attached,) = first.publishing().logs("attached")
        text = complaint(*on(receiver), "--sink", f"file:{tmp_path}/other")
        assert f"program xdp_flow (id {attached['program_id']})" in text
        arrived = delivered(sender, receiver, 10_007)
        first.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_a_driver_without_native_xdp(loopback, recording_url):
    text = complaint(*on(loopback), "--sink", recording_url, "--mode", "native")
    assert text.startswith("attaching to lo (native): ")
    assert "--mode generic" in text


def test_auto_falls_back_to_generic_and_logs_it(loopback, recording_url):
    with Agent(*on(loopback), "--sink", recording_url) as agent:
        (attached,) = agent.publishing().logs("attached")
        agent.stop()
    assert attached["mode"] == "generic"
    assert last_counters(recording_url).attach_mode == "generic"


def test_offload_to_a_device_that_cannot(wire, recording_url):
    _, receiver = wire
    text = complaint(*on(receiver), "--sink", recording_url, "--mode", "offload")
    assert "cannot run XDP programs: use --mode native" in text


@pytest.mark.parametrize("program", ["flow", "counter"])
def test_without_privilege_the_capabilities_are_named(program):
    with public_directory() as directory:
        text = complaint(
            *("-i", "lo", "--sink", f"file:{directory}/recording", "--program", program),
            before=AS_NOBODY,
        )
    assert "CAP_BPF" in text
    assert "root" in text


def test_root_that_stays_root_is_told(wire, recording_url):
    _, receiver = wire
    options = ("--sink", recording_url, "--user", "root", "--duration", "0.3")
    with Agent(*on(receiver), *options) as agent:
        assert agent.wait() == 0
        (line,) = agent.logs("still root by name, without any capability")
    assert (line["level"], line["user"]) == ("warning", "root")


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that everybody may write to; pytest's directories are private."""
    directory = Path("/tmp", f"flowstream-public-{os.getpid()}")
    directory.mkdir()
    directory.chmod(0o1777)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def test_a_recording_whose_path_is_a_file(wire, tmp_path):
    _, receiver = wire
    (tmp_path / "recording").write_text("not a directory")
    text = complaint(*on(receiver), "--sink", f"file:{tmp_path}/recording")
    assert f"{tmp_path}/recording" in text


def test_an_unknown_user(wire, recording_url):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--user", "no-such-user") as agent:
        assert agent.wait() == 2
        assert agent.output() == (f"{ERROR}--user: no user 'no-such-user' on this host\n")


def test_an_interface_that_is_deleted_while_attached(recording_url):
    with namespace() as here, namespace() as there, veth_pair(here, there) as ends:
        sender, receiver = ends
        with Agent(*on(receiver), "--sink", recording_url, "--interval", 0.2) as agent:
            agent.publishing()
            arrived = delivered(sender, receiver, 10_007)
            here.run("ip", "link", "delete", sender.name)
            agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_the_agent_stays_in_its_own_namespace(wire, recording_url):
    """The agent enters the namespace only to attach."""
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing()
        assert Path(f"/proc/{agent.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
        agent.stop()
