"""Filters that the attacher keeps for an agent, as on kernels before Linux 6.6."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import structlog.testing
from support import attached
from support.agent import delivered
from support.net import namespace, veth_pair
from support.pinned import FIRST_EPOCH
from support.tc import PACKETS, add_foreign, arrive, device_of, filters, qdiscs, tc
from support.traffic import wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.errors import AttachError, KernelError, LayoutError
from flowstream.host.namespaces import Namespace
from flowstream.host.privileges import find_user
from flowstream.kernel import features
from flowstream.kernel.attached import program_in_force
from flowstream.kernel.bpffs import Owner
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.explain import explained
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.lease import Lease
from flowstream.kernel.link import Mode
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.stages import Stage
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Interface, Wire

OURS = [(1, "flowstream")]
DIRECTIONS = pytest.mark.parametrize("direction", [INGRESS, EGRESS])


@pytest.fixture(autouse=True)
def _without_tcx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process and attachers that it starts see a kernel without TCX."""
    monkeypatch.setattr(features, "has_tcx", lambda: False)


@pytest.fixture(name="ends")
def _ends() -> Iterator[Wire]:
    """A veth pair in a namespace, in which the test is."""
    with namespace() as place, veth_pair(place) as wire, place.entered():
        yield wire


@contextmanager
def attaching(probe: FlowProbe | CounterProbe, *namespaces: int) -> Iterator[Attacher]:
    """An attacher without more privileges than it needs."""
    with attached.process() as process, structlog.testing.capture_logs() as logs:
        yield Attacher(process, probe, find_user("nobody"), namespaces)
        assert logs == []


def target_of(device: Interface, direction: int = INGRESS, **changed) -> Target:
    index = device.index
    return Target(device.name, index, index, Mode.TCX, direction=direction, **changed)


@DIRECTIONS
def test_a_filter_counts_until_the_agent_lets_go_of_it(ends, direction):
    device = device_of(ends, direction)
    with FlowProbe(max_flows=1_009) as probe, attaching(probe) as attacher:
        attachment = attacher.attach(target_of(device, direction))
        assert (attachment.mode, filters(device, direction)) == (Mode.CLSACT, OURS)
        assert program_in_force(attachment.link_fd) == attachment.program.id
        arrive(ends)
        attachment.detach()
        attachment.detach()
        assert qdiscs(device) == []
        arrive(ends)
        assert attachment.counters().seen.packets == PACKETS
        attachment.close()


def test_the_sampling_changes_without_missing_a_packet(ends):
    receiver = ends.receiver
    with FlowProbe(max_flows=1_009) as probe, attaching(probe) as attacher:
        made = [attacher.attach(target_of(receiver))]
        for rate in (7, 1, 3, 1):
            arrive(ends)
            former = made[-1]
            again = target_of(receiver, sampling=rate, link_fd=former.link_fd)
            made.append(attacher.attach(replace(again, mode=former.mode)))
            former.let_go()
            assert program_in_force(made[-1].link_fd) == made[-1].program.id
        arrive(ends)
        assert filters(receiver, INGRESS) == OURS
        made[-1].detach()
        assert [each.counters().seen.packets for each in made] == [PACKETS] * 5
        assert qdiscs(receiver) == []
        for each in made:
            each.close()


def test_filters_of_another_kind_that_run_before_are_named(ends):
    device = ends.receiver
    tc(device, "qdisc add DEV clsact")
    add_foreign(device, EGRESS, 1)
    with (
        CounterProbe(max_flows=101) as probe,
        attached.process() as process,
        structlog.testing.capture_logs() as logs,
    ):
        attacher = Attacher(process, probe, find_user("nobody"))
        made = [attacher.attach(target_of(device, each)) for each in (INGRESS, EGRESS)]
        former = made[-1]
        again = replace(target_of(device, EGRESS), mode=Mode.CLSACT, link_fd=former.link_fd)
        made.append(attacher.attach(again))
        former.let_go()
        for each in made:
            each.detach()
    (told,) = logs
    assert (told["event"], told["interface"], told["direction"]) == (
        "not_first", device.name, "egress",
    )  # fmt: skip
    assert told["reason"] == "TC filters of another kind have the priorities up to 1"


def test_interfaces_of_other_namespaces(wire):
    """Both directions of two namespaces, which the attacher does not keep alive afterwards."""
    sender, receiver = wire
    with ExitStack() as stack:
        enter = stack.enter_context
        places = {each: enter(Namespace.open(each.namespace.name)) for each in (sender, receiver)}
        probe, process = enter(CounterProbe(max_flows=101)), enter(attached.process())
        fds = [each.fd for each in places.values()]
        attacher = Attacher(process, probe, find_user("nobody"), fds)
        held = attached.descriptors(process.pid)
        made = [
            attacher.attach(target_of(device, direction, netns_fd=place.fd))
            for device, place in places.items()
            for direction in (INGRESS, EGRESS)
        ]
        arrived = delivered(sender, receiver, 10_007)
        # The generator's packets do not pass the sender's own TC hook.
        counted = [each.counters().seen.packets for each in made]
        assert counted == [0, 0, arrived, 0]
        for each in made:
            each.detach()
            each.close()
        assert wait_until(lambda: attached.descriptors(process.pid) == held)
        assert [qdiscs(each) for each in places] == [[], []]


@pytest.mark.parametrize("how", ["filter", "qdisc", "link", "netns"])
def test_a_filter_that_another_process_removes_is_in_force_no_more(ends, how):
    device = ends.receiver
    with namespace() as elsewhere, CounterProbe(max_flows=101) as probe:
        with attaching(probe) as attacher:
            attachment = attacher.attach(target_of(device))
            add_foreign(device, INGRESS, 9)
            if how == "filter":
                tc(device, "filter delete DEV ingress prio 1")
            elif how == "qdisc":
                tc(device, "qdisc delete DEV clsact")
            elif how == "link":
                device.namespace.run("ip", "link", "delete", device.name)
            else:
                device.namespace.run("ip", "link", "set", device.name, "netns", elsewhere.name)
            assert wait_until(lambda: program_in_force(attachment.link_fd) == 0)
            attachment.close()
        if how == "filter":
            assert qdiscs(device) == ["clsact"]


def run_and_die(device: Interface, ready: int) -> None:
    """An agent that attaches in both directions and is then to be killed."""
    with Process() as process, CounterProbe(max_flows=101) as probe:
        attacher = Attacher(process, probe, find_user("nobody"))
        for direction in (INGRESS, EGRESS):
            attacher.attach(target_of(device, direction))
        os.write(ready, process.pid.to_bytes(4))
        signal.pause()


@contextmanager
def agent_on(device: Interface) -> Iterator[tuple[int, int]]:
    """Process ids of an agent that has attached, and of its attacher; killed at the end."""
    told, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run_and_die(device, ready)
        finally:
            os._exit(1)
    os.close(ready)
    with os.fdopen(told, "rb") as pipe:
        attacher = int.from_bytes(pipe.read(4))
    assert attacher, "the agent did not attach"
    try:
        yield child, attacher
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_attacher_removes_its_filters_when_the_agent_is_killed(ends, is_stopped):
    device = ends.receiver
    with agent_on(device) as (_, attacher):
        assert [filters(device, each) for each in (INGRESS, EGRESS)] == [OURS] * 2
        if is_stopped:
            os.kill(attacher, signal.SIGSTOP)
            assert wait_until(lambda: attached.status(attacher, "State").startswith("T"))
    assert wait_until(lambda: qdiscs(device) == [])
    assert wait_until(lambda: has_ended(attacher))


def has_ended(pid: int) -> bool:
    """Whether a process, which is no child of this one, has ended."""
    try:
        return attached.status(pid, "State").startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_a_killed_attacher_has_left_is_removed_by_the_next(ends):
    device = ends.receiver
    with agent_on(device) as (_, attacher), agent_on(device):
        # Two agents: one of them lives on.
        assert filters(device, EGRESS) == OURS * 2
        os.kill(attacher, signal.SIGKILL)
        assert wait_until(lambda: has_ended(attacher))
        assert filters(device, EGRESS) == OURS * 2
        with CounterProbe(max_flows=101) as probe, attaching(probe) as next_one:
            attachment = next_one.attach(target_of(device, EGRESS))
            assert [len(filters(device, each)) for each in (INGRESS, EGRESS)] == [1, 2]
            arrive(ends)
            assert attachment.counters().seen.packets == 0
            attachment.detach()
        assert [filters(device, each) for each in (INGRESS, EGRESS)] == [OURS] * 2
    assert wait_until(lambda: qdiscs(device) == [])


def test_an_agent_is_told_that_nobody_removes_its_filter(ends):
    device = ends.receiver
    with CounterProbe(max_flows=101) as probe, attached.process() as process:
        attacher = Attacher(process, probe, find_user("nobody"))
        attachment = attacher.attach(target_of(device))
        os.kill(process.pid, signal.SIGKILL)
        assert wait_until(lambda: program_in_force(attachment.link_fd) == 0)
        with pytest.raises(KernelError, match="may still be there: the attacher has ended"):
            attachment.detach()
        attachment.close()
    assert filters(device, INGRESS) == OURS
    # By hand, as docs/how-to/interfaces.md has it.
    (handle,) = re.findall(
        r"handle (0x[0-9a-f]+) flowstream", tc(device, "filter show DEV ingress")
    )
    tc(device, f"filter delete DEV ingress protocol all prio 1 handle {handle} bpf")
    assert filters(device, INGRESS) == []
    tc(device, "qdisc delete DEV clsact")


def test_an_attacher_that_hangs_does_not_hold_up_an_agent(ends):
    device = ends.receiver
    with CounterProbe(max_flows=101) as probe, attached.process() as process:
        attacher = Attacher(process, probe, find_user("nobody"))
        attachment = attacher.attach(target_of(device))
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(KernelError, match="does not answer: timed out"):
            attachment.detach()
        os.kill(process.pid, signal.SIGCONT)
        assert wait_until(lambda: qdiscs(device) == [])
        attachment.close()


def test_foreign_leases_are_refused(ends):
    """That of another filter, one that has ended, and sockets that are none."""
    sender, _ = ends
    with CounterProbe(max_flows=101) as probe, attaching(probe) as attacher:
        ours, other = (attacher.attach(target_of(each)) for each in ends)
        ended = attacher.attach(target_of(sender, EGRESS))
        wanted = replace(target_of(sender), mode=Mode.CLSACT)
        with pytest.raises(KernelError, match="clsact is a mode in force"):
            attacher.attach(wanted)
        tc(sender, "filter delete DEV egress")
        assert wait_until(lambda: program_in_force(ended.link_fd) == 0)
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with pair[0] as one, pair[1]:
            for fd in (other.link_fd, ended.link_fd, one.fileno(), ours.program.fd):
                with pytest.raises(KernelError, match="this is no link of the run"):
                    attacher.attach(replace(wanted, link_fd=fd))
        with pytest.raises(KernelError, match="this is no link of the run"):
            attacher.attach(replace(wanted, direction=EGRESS, link_fd=ours.link_fd))
        assert program_in_force(ours.link_fd) == ours.program.id
        for each in (ours, other, ended):
            each.close()


def test_a_lease_is_a_socket(ends):
    with pytest.raises(LayoutError, match="is no socket"):
        Lease.from_fd(os.open(os.devnull, os.O_RDONLY), ends.sender.index)


def test_an_interface_that_is_gone(ends):
    with CounterProbe(max_flows=101) as probe, attaching(probe) as attacher:
        with pytest.raises(KernelError, match="gone is gone") as refused:
            attacher.attach(Target("gone", 1_009, 1_009, Mode.TCX))
        assert refused.value.errno == errno.ENODEV


def test_a_kernel_without_the_modules():
    err = AttachError("unknown", errno.ENOENT, stage=Stage.ATTACHING, mode=Mode.CLSACT)
    told = explained(err, Target("eth0", 1, 1, Mode.TCX), [])
    assert str(told) == (
        "attaching to eth0 (clsact): this kernel has no clsact qdiscs, or no BPF filters for "
        "them: modprobe -a sch_ingress cls_bpf"
    )


def test_an_ingress_qdisc_is_no_place_for_what_is_sent(ends):
    device = ends.receiver
    tc(device, "qdisc add DEV ingress")
    with (
        CounterProbe(max_flows=101) as probe,
        attaching(probe) as attacher,
        pytest.raises(KernelError) as refused,
    ):
        attacher.attach(target_of(device, EGRESS))
    assert str(refused.value) == (
        f"attaching to {device.name} (clsact): its ingress qdisc leaves no room for filters of "
        "what is sent: replace it by a clsact qdisc, which takes the same filters"
    )


def test_filters_are_not_pinned(ends, bpffs):
    nobody = find_user("nobody")
    with (
        PinDirectory(f"{bpffs}/flowstream", Owner(*nobody)) as directory,
        directory.create(FIRST_EPOCH) as generation,
        FlowProbe(max_flows=101, pins=generation) as probe,
        attached.process() as process,
    ):
        attacher = Attacher(process, probe, nobody)
        with pytest.raises(KernelError, match="--pin at the TC hook requires Linux 6"):
            attacher.attach(target_of(ends.receiver))
        attacher.attach(replace(target_of(ends.receiver), mode=Mode.NATIVE)).detach()
    assert qdiscs(ends.receiver) == []
