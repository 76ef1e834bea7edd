"""Attachments in two steps, and programs that take over a link."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.agent import delivered
from support.net import namespace, veth_pair
from support.traffic import flood

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.errors import AttachError, KernelError, LayoutError
from flowstream.kernel import libbpf
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.rates import Rates
from flowstream.kernel.target import Target
from flowstream.layouts.constants import EndReason
from flowstream.layouts.flow import FLOW_KEY

PACKETS = 10_007
PROBES = pytest.mark.parametrize("probe_type", [FlowProbe, CounterProbe])


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@PROBES
def test_an_attachment_is_made_of_descriptors(wire, probe_type):
    sender, receiver = wire
    with probe_type(max_flows=1_009) as probe:
        with receiver.namespace.entered():
            target = Target.named(receiver.name)
            parts = probe.creator.create(target)
        # As by a socket: other numbers of the same objects.
        fds = [os.dup(fd) for fd in parts.fds]
        parts.close()
        with probe.adopt(target, parts.mode, fds) as attachment:
            assert attachment.mode is Mode.NATIVE
            assert attachment.key == AttachmentKey(receiver.index)
            arrived = delivered(sender, receiver, PACKETS)
            assert attachment.counters().seen.packets == arrived


@PROBES
def test_descriptors_of_something_else_are_refused_and_closed(wire, probe_type):
    _, receiver = wire
    with probe_type(max_flows=1_009) as probe, receiver.namespace.entered():
        target = Target.named(receiver.name)
        before = descriptors()
        for place, other in ((0, 2), (1, 0), (2, 1)):
            fds = probe.creator.create(target).release()
            os.dup2(fds[other], fds[place])
            with pytest.raises(LayoutError):
                probe.adopt(target, Mode.NATIVE, fds)
            assert descriptors() == before
        fds = probe.creator.create(target).release()
        with pytest.raises(LayoutError, match=r"of \d descriptors, expected \d"):
            probe.adopt(target, Mode.NATIVE, [*fds, os.dup(fds[0])])
        fds = probe.creator.create(target).release()
        with pytest.raises(LayoutError, match="interface index"):
            probe.adopt(replace(target, if_index=target.if_index + 1), Mode.NATIVE, fds)
        assert descriptors() == before


@PROBES
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_a_link_is_taken_over_while_packets_arrive(wire, probe_type, mode):
    """Each packet is seen once: by the former program or by the one that replaces it."""
    sender, receiver = wire
    received = receiver.statistic("rx_packets")
    with probe_type(max_flows=1_009) as probe, receiver.namespace.entered():
        target = Target.named(receiver.name, mode)
        attachments = [attach_here(probe, target)]
        for rate in (7, 11, 1, 13):
            flood(sender, "-n", PACKETS)
            former = attachments[-1]
            link_fd = former.link_fd
            attachments.append(attach_here(probe, replace(target, sampling=rate, link_fd=link_fd)))
            assert attachments[-1].link_fd != link_fd
            former.detach()
            attached = libbpf.attached_program(receiver.index)
            assert attached
            assert attached[0] == attachments[-1].program.id
        delivered(sender, receiver, PACKETS)
        seen = [each.counters().seen.packets for each in attachments]
        assert sum(seen) == receiver.statistic("rx_packets") - received
        assert all(seen)
        assert [each.sampling for each in attachments] == [1, 7, 11, 1, 13]
        for each in attachments:
            each.close()
        assert libbpf.attached_program(receiver.index) is None


def test_only_the_link_of_the_interface_is_taken_over(pairs):
    (_, first), (_, second) = pairs
    ours, theirs = socket.socketpair()
    with ours, theirs, FlowProbe(max_flows=101) as probe, first.namespace.entered():
        target = Target.named(first.name)
        other = probe.attach(second.name, Mode.NATIVE)
        before = descriptors()
        for fd in (other.link_fd, other.program.fd, probe.wakeups.fd, ours.fileno()):
            with pytest.raises((LayoutError, AttachError)):
                probe.creator.create(replace(target, link_fd=fd))
            assert descriptors() == before
        attached = libbpf.attached_program(second.index)
        assert attached
        assert attached[0] == other.program.id
        assert libbpf.attached_program(first.index) is None
        other.close()


def test_an_interface_that_is_gone():
    with (
        namespace() as place,
        veth_pair(place) as (_, receiver),
        place.entered(),
        FlowProbe(max_flows=101) as probe,
    ):
        target = Target.named(receiver.name)
        attachment = attach_here(probe, target)
        place.run("ip", "link", "delete", receiver.name)
        for link_fd in (attachment.link_fd, None):
            with pytest.raises(KernelError) as gone:
                attach_here(probe, replace(target, link_fd=link_fd))
            assert gone.value.errno == errno.ENODEV
        attachment.close()


def test_records_have_the_rate_of_their_attachment(pairs):
    (sender, first), (other_sender, second) = pairs
    with FlowProbe(max_flows=1_009) as probe, first.namespace.entered():
        attachments = [
            attach_here(probe, replace(Target.named(device.name), sampling=rate))
            for device, rate in ((first, 3), (second, 1))
        ]
        delivered(sender, first, PACKETS, "-f", 7)
        delivered(other_sender, second, PACKETS, "-f", 11)
        records = np.concatenate(list(probe.drain(EndReason.INTERVAL_OVER)))
        indexes, rates = records["if_index"].tolist(), records["sampling_rate"].tolist()
        assert set(zip(indexes, rates, strict=True)) == {(first.index, 3), (second.index, 1)}
        for each in attachments:
            each.close()


def test_records_of_the_table_in_which_the_rate_changes_keep_the_former_one(wire):
    sender, receiver = wire
    with FlowProbe(max_flows=1_009) as probe, receiver.namespace.entered():

        def rates() -> set[int]:
            records = [*probe.drain(EndReason.INTERVAL_OVER)]
            return set(np.concatenate(records)["sampling_rate"].tolist())

        attachment = attach_here(probe, Target.named(receiver.name))
        for former, rate in ((1, 2), (2, 3), (3, 1)):
            delivered(sender, receiver, PACKETS, "-f", 7)
            again = replace(
                Target.named(receiver.name, attachment.mode, rate), link_fd=attachment.link_fd
            )
            successor = attach_here(probe, again)
            attachment.close()
            attachment = successor
            delivered(sender, receiver, PACKETS, "-f", 11)
            assert rates() == {former}
            delivered(sender, receiver, PACKETS, "-f", 11)
            assert rates() == {rate}
        attachment.close()


def test_a_change_of_rate_waits_for_the_next_table():
    keys = np.zeros(2, FLOW_KEY)
    keys["if_index"] = [3, 5]
    rates = Rates(1)
    for index in (3, 5):
        rates.set(AttachmentKey(index), 1)
    rates.change(AttachmentKey(3), 7)
    rates.change(AttachmentKey(3), 11)
    rates.swapped()
    assert rates.of(keys) == 1
    rates.change(AttachmentKey(3), 13)
    rates.swapped()
    assert np.asarray(rates.of(keys)).tolist() == [11, 1]
    rates.swapped()
    assert np.asarray(rates.of(keys)).tolist() == [13, 1]
    rates.change(AttachmentKey(3), 17)
    rates.forget(AttachmentKey(3))
    for _ in range(3):
        rates.swapped()
        assert rates.of(keys) == 1


def test_rates_of_many_and_of_one():
    keys = np.zeros(5, FLOW_KEY)
    keys["if_index"] = [1_009, 3, 7, 3, 5]
    keys["flow_direction"] = [0, 1, 0, 0, 0]
    rates = Rates(17)
    assert rates.of(keys) == 17
    rates.set(AttachmentKey(3), 2)
    assert rates.of(keys) == 2
    rates.set(AttachmentKey(3, 1), 2)
    assert rates.of(keys) == 2
    rates.set(AttachmentKey(1_009), 2**32 - 1)
    # What is not known has the rate that all had before.
    assert np.asarray(rates.of(keys)).tolist() == [2**32 - 1, 2, 2, 2, 2]
    rates.set(AttachmentKey(3), 5)
    assert np.asarray(rates.of(keys)).tolist() == [2**32 - 1, 2, 2, 5, 2]
    rates.forget(AttachmentKey(1_009))
    rates.forget(AttachmentKey(1_009))
    rates.forget(AttachmentKey(3, 1))
    assert rates.of(keys) == 5


def test_records_may_have_another_index_than_the_kernel(wire):
    """With several namespaces the kernel's index alone does not tell an interface."""
    sender, receiver = wire
    numbered = 3 << 24 | receiver.index
    with FlowProbe(max_flows=101) as probe, receiver.namespace.entered():
        target = Target(receiver.name, receiver.index, numbered)
        with attach_here(probe, target) as attachment:
            assert attachment.key == AttachmentKey(numbered)
            delivered(sender, receiver, PACKETS)
            records = np.concatenate(list(probe.drain(EndReason.INTERVAL_OVER)))
            assert set(records["if_index"].tolist()) == {numbered}
