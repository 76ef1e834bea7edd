"""Programs, maps and links that one run leaves and the next one takes over, under traffic."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from support.agent import delivered, quiet
from support.net import namespace, veth_pair
from support.pinned import FIRST_EPOCH, ROOT, PinnedRun, emptied
from support.traffic import load

from flowstream.errors import KernelError, LayoutError
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.generation import BOOKS, LinkPin, counters_pin, link_pin
from flowstream.kernel.leftovers import open_earlier
from flowstream.kernel.link import Mode, mode_of
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.pinned_link import PinnedLink
from flowstream.kernel.target import Target
from flowstream.layouts.constants import EndReason
from flowstream.streams import Stream

PACKETS = 10_007
FLOWS = 307


@pytest.fixture
def place(bpffs):
    """Where a test's runs have their pins; programs that it leaves are detached."""
    yield bpffs / "flowstream"
    with PinDirectory(f"{bpffs}/flowstream", ROOT) as directory:
        for generation in directory.generations():
            for code in generation.codes("link"):
                PinnedLink(generation, code).detach()


def leave(place, interface, number=0, **options):
    with PinnedRun(place, number) as run:
        run.attach(interface, **options)
        return run.attachment.key.code


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_a_program_goes_on_counting_when_its_process_has_ended(place, wire, mode):
    sender, receiver = wire
    code = leave(place, receiver, mode=mode)
    arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
    with PinnedRun(place, 1) as run:
        (earlier,) = run.earlier
        assert earlier.codes == list(earlier.links) == [code]
        assert earlier.max_flows == 1_009
        run.attach(receiver)
        assert run.attachment.mode is mode
        # The former program is off the interface: nothing is added to its counts.
        more = delivered(sender, receiver, PACKETS)
        assert emptied(earlier) == arrived
        counts = earlier.counters(code)
        assert counts.seen.packets == arrived
        assert counts.seen.l2_bytes == arrived * 64
        assert run.attachment.counters().seen.packets == more
        earlier.remove()
        run.attachment.detach()
    with receiver.namespace.entered():
        assert mode_of(receiver.index, run.attachment.program.id) is None


def test_twenty_take_overs_in_a_row_miss_no_packet_and_double_none(place, wire):
    sender, receiver = wire
    before = receiver.statistic("rx_packets")
    leave(place, receiver)
    seen, recorded, counted = [], 0, 0
    with load(sender, FLOWS, 100_000):
        for number in range(1, 21):
            with PinnedRun(place, number) as run:
                run.attach(receiver)
                (earlier,) = run.earlier
                recorded += emptied(earlier)
                (code,) = earlier.codes
                seen.append(earlier.counters(code).seen.packets)
                earlier.remove()
    quiet(receiver)
    with PinnedRun(place, 21) as run:
        run.attach(receiver)
        (last,) = run.earlier
        recorded += emptied(last)
        seen.append(last.counters(code).seen.packets)
        last.remove()
        counted = run.attachment.counters().seen.packets
        run.attachment.detach()
    received = receiver.statistic("rx_packets") - before
    assert sum(seen) + counted == received
    assert recorded + counted == received
    # It went on while the runs began.
    assert sum(packets > 0 for packets in seen) > 10


def test_all_that_the_kernel_holds_is_drained_once(place, wire):
    """Both tables, the ring of packets without a table, and the one of announcements."""
    sender, receiver = wire
    with PinnedRun(place, max_flows=101) as run:
        run.attach(receiver)
        first = delivered(sender, receiver, 50, "-f", 50)
        # A swap, and a drain that is abandoned: the kill of an agent.
        next(run.probe.drain(EndReason.INTERVAL_OVER), None)
        second = delivered(sender, receiver, PACKETS, "-f", FLOWS)
    with PinnedRun(place, 1) as run:
        run.attach(receiver)
        (earlier,) = run.earlier
        earlier.freeze()
        batches = list(earlier.drain(EndReason.FORCED))
        assert sum(int(batch["packets"].sum()) for _, batch in batches) == second
        assert first == 50
        announced = sum(len(batch) for stream, batch in batches if stream is Stream.NEW_FLOWS)
        assert announced >= FLOWS
        assert len({int(record["src_port"]) for _, batch in batches for record in batch}) >= 1
        assert list(earlier.drain(EndReason.FORCED)) == []
        run.attachment.detach()


def test_an_abandoned_drain_of_leftovers_leaves_the_rest_to_the_next(place, wire):
    sender, receiver = wire
    leave(place, receiver)
    arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
    with PinnedRun(place, 1) as run:
        run.attach(receiver)
        (earlier,) = run.earlier
        earlier.freeze()
        part = next(b for s, b in earlier.drain(EndReason.FORCED) if s is Stream.FLOWS)
        # Killed: this part is in no table any more, and the books have to say so.
    with PinnedRun(place, 2) as run:
        run.attach(receiver)
        left = sum(emptied(each) for each in run.earlier)
        assert left + int(part["packets"].sum()) == arrived
        run.attachment.detach()


def test_records_have_the_rates_that_the_books_tell(place, wire):
    sender, receiver = wire
    leave(place, receiver, sampling=1)
    delivered(sender, receiver, 101)
    with PinnedRun(place, 1) as run:
        run.attach(receiver)
        (earlier,) = run.earlier
        earlier.rates.set(run.attachment.key, 7)
        earlier.freeze()
        rates = [b["sampling_rate"] for s, b in earlier.drain(0) if s is Stream.FLOWS]
        assert [rate.tolist() for rate in rates] == [[7]]
        run.attachment.detach()


def test_a_detached_program_leaves_exact_counts(place, wire):
    sender, receiver = wire
    with PinnedRun(place) as run:
        run.attach(receiver)
        arrived = delivered(sender, receiver, PACKETS)
        run.attachment.detach()
        assert run.generation.names() >= {counters_pin(run.attachment.key.code)}
        assert run.generation.codes("link") == []
    delivered(sender, receiver, 101)
    with PinnedRun(place, 1) as run:
        (earlier,) = run.earlier
        assert earlier.links == {}
        (code,) = earlier.codes
        assert emptied(earlier) == earlier.counters(code).seen.packets == arrived


def test_a_link_that_nobody_wants_any_more_is_detached_without_privileges(place, wire):
    sender, receiver = wire
    leave(place, receiver)
    with PinnedRun(place, 1) as run:
        (earlier,) = run.earlier
        (link,) = earlier.links.values()
        arrived = delivered(sender, receiver, 101)
        held = os.dup(link.fd)
        link.detach()
        # Whoever has a descriptor: it is off.
        delivered(sender, receiver, 101)
        os.close(held)
        (code,) = earlier.codes
        assert emptied(earlier) == earlier.counters(code).seen.packets == arrived
        with receiver.namespace.entered():
            assert mode_of(receiver.index, link.program_id) is None
        assert earlier.generation.codes("link") == []


def test_links_of_interfaces_that_are_gone_have_no_index(place):
    with namespace() as here, namespace() as there:
        with veth_pair(here, there) as (sender, receiver):
            leave(place, receiver)
            arrived = delivered(sender, receiver, 101)
        with PinnedRun(place, 1) as run:
            (earlier,) = run.earlier
            (link,) = earlier.links.values()
            with there.entered():
                assert (link.if_index, link.mode_here()) == (0, None)
            link.detach()
            (code,) = earlier.codes
            assert emptied(earlier) == earlier.counters(code).seen.packets == arrived


def test_an_interface_of_the_same_index_elsewhere_is_not_taken_for_it(place):
    ends = {"names": ("near2", "far")}
    with (
        namespace() as one,
        namespace() as other,
        namespace() as third,
        veth_pair(third, one) as (_, mine),
        veth_pair(third, other, **ends) as (_, its),
    ):
        other.run("ip", "link", "set", its.name, "down")
        leave(place, mine)
        with PinnedRun(place, 1) as run:
            (link,) = run.earlier[0].links.values()
            assert link.if_index == mine.index
            with other.entered():
                assert link.mode_here() is None
            with one.entered():
                assert link.mode_here() is Mode.NATIVE
            link.detach()


def test_a_link_keeps_its_pin_when_the_kernel_refuses_to_take_it_over(place, wire):
    _, receiver = wire
    code = leave(place, receiver)
    with PinnedRun(place, 1) as run:
        (earlier,) = run.earlier
        link = earlier.links[code]
        # As if the interface had gone in between.
        link_fd = os.dup(link.fd)
        link.detach()
        earlier.generation.pin(link_pin(code), link_fd)
        with receiver.namespace.entered():
            target = Target(
                receiver.name, 0, receiver.index, Mode.NATIVE,
                link_fd=link_fd, earlier=LinkPin(earlier.epoch, code),
            )  # fmt: skip
            with pytest.raises(KernelError):
                attach_here(run.probe, target)
        os.close(link_fd)
        assert earlier.generation.codes("link") == [code]
        assert run.generation.names() == {"table-0", "table-1", "slot", "overflow",
                                          "announcements", "books"}  # fmt: skip


def test_an_attach_that_fails_leaves_no_pin(place, wire):
    _, receiver = wire
    with receiver.namespace.entered(), PinnedRun(place) as run:
        target = Target(receiver.name, 2**31 - 1, receiver.index)
        with pytest.raises(KernelError):
            attach_here(run.probe, target)
        assert run.generation.codes("counters") == []
        run.attach(receiver)
        assert run.generation.codes("link") == [run.attachment.key.code]
        with pytest.raises(KernelError, match=r"counters-\d+: File exists"):
            attach_here(run.probe, Target(receiver.name, receiver.index, receiver.index))
        assert run.generation.codes("counters") == [run.attachment.key.code]
        run.attachment.detach()


def test_another_program_of_the_same_run_goes_on_with_the_counters(place, wire):
    sender, receiver = wire
    with PinnedRun(place) as run:
        run.attach(receiver)
        former = run.attachment
        arrived = delivered(sender, receiver, 101)
        with receiver.namespace.entered():
            target = Target.named(receiver.name, former.mode, sampling=1_000_003)
        before = former.counters_id
        again = attach_here(run.probe, replace(target, link_fd=former.link_fd))
        former.close()
        arrived += delivered(sender, receiver, 103)
        assert again.counters_id == before
        assert again.counters().seen.packets == arrived
        assert 0 < again.counters().no_flow["sampled_out"].packets <= 103
        again.detach()
        again.unpin()
        assert run.generation.codes("counters") == run.generation.codes("link") == []
        # The interface comes back.
        run.attach(receiver)
        assert run.attachment.counters().seen.packets == 0
        run.attachment.detach()


def test_who_holds_an_interface_is_told_apart_from_others(place, wire):
    _, receiver = wire
    leave(place, receiver)
    with (
        FlowProbe(max_flows=101) as probe,
        receiver.namespace.entered(),
        pytest.raises(KernelError, match=r"stop its agent, or, .*: flowstream detach DIR, with"),
    ):
        probe.attach(receiver.name)


def test_a_generation_that_never_attached_is_removed(place):
    with PinnedRun(place):
        pass
    with PinDirectory(str(place), ROOT) as directory:
        (generation,) = directory.generations()
        for name in ("books", "overflow", "slot"):
            generation.unpin(name)
        assert open_earlier(directory) == []
        assert directory.generations() == []


def test_links_without_books_are_refused(place, wire):
    _, receiver = wire
    code = leave(place, receiver)
    with PinDirectory(str(place), ROOT) as directory:
        (generation,) = directory.generations()
        generation.unpin(BOOKS)
        with pytest.raises(KernelError, match=r"books are missing; .*flowstream detach"):
            open_earlier(directory)
        assert generation.codes("link") == [code]
        generation.remove()


@pytest.mark.parametrize("name", ["table-1", "slot", "overflow", "announcements", "counters-6"])
def test_maps_of_another_layout_are_refused_and_left_alone(place, name):
    with PinnedRun(place) as run:
        run.generation.unpin(name)
        with BooksMap() as other:
            run.generation.pin(name, other.fd)
        before = run.generation.names()
    with PinDirectory(str(place), ROOT) as directory:
        with pytest.raises(LayoutError, match=f"{FIRST_EPOCH}: left by another version.*detach"):
            open_earlier(directory)
        (generation,) = directory.generations()
        assert generation.names() == before


def test_two_earlier_runs_are_frozen_together(place, wire):
    """Killed while it closed the first one: the second has the link, the first only its counts."""
    sender, receiver = wire
    arrived = []
    for number in range(3):
        leave(place, receiver, number)
        arrived.append(delivered(sender, receiver, 101 + number))
    with PinnedRun(place, 3) as run:
        assert [list(each.links) for each in run.earlier[:2]] == [[], []]
        run.attach(receiver)
        assert [emptied(each) for each in run.earlier] == arrived
        run.attachment.detach()
