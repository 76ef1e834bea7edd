"""What an agent that was taken over cannot make the attacher do."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import attached
from support.agent import Agent, on
from support.pinned import PinnedRun

from flowstream.accounting.attachment_key import EGRESS
from flowstream.attacher import protocol
from flowstream.attacher.client import Attacher
from flowstream.attacher.protocol import Request
from flowstream.errors import KernelError
from flowstream.host.namespaces import Namespace
from flowstream.host.privileges import User
from flowstream.kernel import libbpf
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.generation import LinkPin
from flowstream.kernel.link import Mode, program_in_force
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.attacher.process import Process

ROOT = User(0, 0)
NO_LINK = "this is no link of the run"


def target_of(interface, **changed) -> Target:
    return Target(interface.name, interface.index, interface.index, **changed)


@contextmanager
def attaching(
    probe: CounterProbe | FlowProbe, *namespaces: int
) -> Iterator[tuple[Process, Attacher]]:
    """A process and what talks to it, in the namespace of the calling thread.

    Its user is this process's, which so may change its limits.
    """
    with attached.process() as process:
        yield process, Attacher(process, probe, ROOT, namespaces)


def is_alive(process: Process) -> bool:
    return not select.select([process.pidfd], [], [], 0)[0]


def test_only_the_namespaces_of_the_run_are_entered(wire):
    there, here = wire
    with (
        Namespace.open(here.namespace.name) as observed,
        Namespace.open(there.namespace.name) as other,
        CounterProbe(max_flows=101) as probe,
        attaching(probe, observed.fd) as (_, attacher),
    ):
        for elsewhere in (other.fd, None):
            with pytest.raises(KernelError, match="this network namespace is not observed"):
                attacher.attach(target_of(there, netns_fd=elsewhere))
        attacher.attach(target_of(here, netns_fd=observed.fd)).close()


def test_a_namespace_that_is_another_kind_of_file_is_refused(wire, tmp_path):
    _, receiver = wire
    with (
        Namespace.open(receiver.namespace.name) as observed,
        CounterProbe(max_flows=101) as probe,
        attaching(probe, observed.fd) as (_, attacher),
        Path("/proc/self/ns/mnt").open("rb") as mounts,
        (tmp_path / "file").open("wb") as file,
    ):
        for each in (mounts, file):
            with pytest.raises(KernelError, match="this network namespace is not observed"):
                attacher.attach(target_of(receiver, netns_fd=each.fileno()))


def test_the_program_of_a_foreign_link_is_not_replaced(wire):
    """Whoever handed over its descriptor, and whatever program it has."""
    _, receiver = wire
    with (
        receiver.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        attaching(probe) as (process, attacher),
    ):
        with probe.attach(receiver.name) as foreign:
            target = target_of(receiver, mode=foreign.mode, link_fd=foreign.link_fd)
            for each in (target, replace(target, earlier=LinkPin(5, 6))):
                with pytest.raises(KernelError, match=NO_LINK):
                    attacher.attach(each)
            assert program_in_force(foreign.link_fd) == foreign.program.id
            for other in (foreign.program.fd, process.socket.fileno()):
                with pytest.raises(KernelError, match=rf"{NO_LINK}|describing descriptor"):
                    attacher.attach(replace(target, link_fd=other))
        with attacher.attach(target_of(receiver)) as own:
            again = target_of(receiver, mode=own.mode, link_fd=own.link_fd, sampling=7)
            with attacher.attach(again) as successor:
                assert program_in_force(own.link_fd) == successor.program.id
        assert is_alive(process)


def test_a_direction_that_a_hook_does_not_see_is_refused(wire):
    """Whatever the agent checks before: the request comes as it is."""
    _, receiver = wire
    with (
        receiver.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        attaching(probe) as (process, attacher),
    ):
        for mode in (Mode.AUTO, Mode.NATIVE, Mode.GENERIC, Mode.OFFLOAD):
            request = Request(
                "attach", receiver.index, 7, EGRESS, mode, 1, raw=False, netns=False, link=False,
                earlier=None,
            )  # fmt: skip
            protocol.send(process.socket, request, [])
            data, fds = protocol.receive(process.socket, 16)
            assert fds == []
            reply = protocol.decode_reply(data)
            assert (reply.errno, reply.text) == (errno.EINVAL, "XDP sees received packets only")
        # The link of one direction does not get the program of the other.
        with attacher.attach(target_of(receiver, mode=Mode.TCX)) as own:
            other = target_of(receiver, mode=Mode.TCX, direction=EGRESS, link_fd=own.link_fd)
            with pytest.raises(KernelError) as refused:
                attacher.attach(other)
            assert (str(refused.value), refused.value.errno) == (
                "attaching to far (tcx): link: its descriptor has attach type 46, expected 47",
                0,
            )
            assert program_in_force(own.link_fd) == own.program.id


def test_with_pins_a_link_is_the_one_that_is_pinned(wire, bpffs):
    _, receiver = wire
    with receiver.namespace.entered():
        with PinnedRun(bpffs / "pins", 0) as first:
            first.attach(receiver)
        with PinnedRun(bpffs / "pins", 1) as run, attached.process() as process:
            attacher = Attacher(process, run.probe, ROOT)
            (link,) = run.earlier[0].links.values()
            pin = LinkPin(run.earlier[0].epoch, link.code)
            mode = link.mode_here()
            assert mode
            target = target_of(receiver, mode=mode, link_fd=link.fd)
            before = program_in_force(link.fd)
            with pytest.raises(KernelError, match=NO_LINK):
                attacher.attach(target)
            with pytest.raises(KernelError, match="opening link-1234: No such file"):
                attacher.attach(replace(target, earlier=pin._replace(code=1_234)))
            with CounterProbe(max_flows=101) as probe, probe.attach("lo") as foreign:
                other = Target("lo", 1, 1, Mode.GENERIC, link_fd=foreign.link_fd, earlier=pin)
                with pytest.raises(KernelError, match=NO_LINK):
                    attacher.attach(other)
            assert program_in_force(link.fd) == before
            with attacher.attach(replace(target, earlier=pin)) as successor:
                assert program_in_force(link.fd) == successor.program.id
                # At once: when its pin goes with the file system, the kernel takes its time.
                successor.detach()


def test_an_agent_without_a_free_descriptor_leaves_nothing_on_the_interface(wire):
    _, receiver = wire
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        receiver.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        attaching(probe) as (_, attacher),
        ExitStack() as stack,
    ):
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        highest = max(attached.descriptors(os.getpid()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        taken: list[int] = []
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        # Of a program, a link and three maps the last has no room.
        for _ in range(4):
            os.close(taken.pop())
        with pytest.raises(KernelError, match="Too many open files") as refused:
            attacher.attach(target_of(receiver))
        assert refused.value.errno == errno.EMFILE
        assert libbpf.attached_program(receiver.index) is None
        os.close(taken.pop())
        attacher.attach(target_of(receiver)).close()
        for fd in taken:
            os.close(fd)


def test_an_attacher_without_a_free_descriptor_refuses_and_goes_on(wire):
    _, receiver = wire
    refused: list[str] = []
    with (
        receiver.namespace.entered(),
        FlowProbe(max_flows=101) as probe,
        attaching(probe) as (process, attacher),
        attacher.attach(target_of(receiver)) as own,
    ):
        again = target_of(receiver, mode=own.mode, link_fd=own.link_fd)
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        for limit in count():
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, hard))
            try:
                attacher.attach(again).close()
                break
            except KernelError as err:
                refused.append(str(err))
            assert program_in_force(own.link_fd) == own.program.id
    assert any("creating map counters: Too many open files" in each for each in refused)
    # Of the link, the last before it gets another program.
    assert refused[-1] == "attaching to far (native): Too many open files"


OUT_OF_MEMORY = """
from flowstream.attacher.process import Process
process = Process()
import resource
from flowstream.attacher.client import Attacher
from flowstream.errors import KernelError
from flowstream.host.privileges import User
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.target import Mode, Target
attacher = Attacher(process, CounterProbe(max_flows=101), User(0, 0))
# No memory for the verifier's log.
resource.prlimit(process.pid, resource.RLIMIT_AS, (0, 0))
try:
    attacher.attach(Target("lo", 1, 1, Mode.OFFLOAD))
except KernelError as err:
    print(err)
print(process.end())
"""


def test_the_attacher_says_what_it_ends_of():
    """In a process that has no memory to reuse."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=True
    )
    refused, ended = done.stdout.splitlines()
    assert refused.startswith("attaching to lo: the attacher ends: MemoryError")
    assert ended == "it ended with status 1"


def test_an_attacher_that_hangs_ends_with_a_killed_agent(wire, recording_url):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing()
        attacher = attached.attacher_of(agent)
        os.kill(attacher, signal.SIGSTOP)
        ended = os.pidfd_open(attacher)
        agent.process.kill()
        assert select.select([ended], [], [], 10)[0]
        os.close(ended)
