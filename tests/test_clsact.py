"""Filters at clsact qdiscs: which packets they see, and that others' filters and qdiscs stay."""

from __future__ import annotations

import errno
import itertools
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.net import namespace, veth_pair
from support.tc import (
    PACKETS,
    POINTS,
    TAKE,
    CountingProgram,
    add_foreign,
    arrive,
    device_of,
    filters,
    qdiscs,
    tc,
)

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.errors import KernelError
from flowstream.kernel.clsact import Filters, new_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Wire

DIRECTIONS = pytest.mark.parametrize("direction", [INGRESS, EGRESS])


@pytest.fixture(name="ends")
def _ends() -> Iterator[Wire]:
    """A veth pair in a namespace, in which the test is."""
    with namespace() as place, veth_pair(place) as wire, place.entered():
        yield wire


@pytest.fixture(name="holders")
def _holders(ends: Wire) -> Iterator[tuple[Filters, Filters]]:
    """Two holders of filters."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Filters(new_number())) for _ in range(2))


@pytest.fixture(name="programs")
def _programs() -> Iterator[list[CountingProgram]]:
    with ExitStack() as stack:
        yield [stack.enter_context(CountingProgram()) for _ in range(4)]


@DIRECTIONS
def test_a_filter_sees_what_passes_in_its_direction(ends, holders, programs, direction):
    ours, _ = holders
    device = device_of(ends, direction)
    place = ours.add(device.index, direction, programs[0].fd)
    against = ours.add(device.index, 1 - direction, programs[1].fd)
    assert filters(device, direction) == [(1, "flowstream")]
    arrive(ends)
    assert (programs[0].packets, programs[1].packets) == (PACKETS, 0)
    assert ours.program_of(place) == programs[0].id
    ours.remove(place)
    ours.remove(place)
    assert ours.program_of(place) == 0
    arrive(ends)
    assert (programs[0].packets, programs[1].packets) == (PACKETS, 0)
    assert qdiscs(device) == ["clsact"]
    ours.remove(against)
    assert qdiscs(device) == []


@DIRECTIONS
def test_no_packet_is_missed_while_a_program_replaces_another(ends, holders, programs, direction):
    ours, _ = holders
    device = device_of(ends, direction)
    place = ours.add(device.index, direction, programs[0].fd)
    sending = threading.Thread(target=lambda: [arrive(ends) for _ in range(101)])
    sending.start()
    for number in itertools.count():
        ours.replace(place, programs[number % 4].fd)
        assert ours.program_of(place) == programs[number % 4].id
        if not sending.is_alive() and number > len(programs):
            break
    sending.join()
    assert sum(each.packets for each in programs) == 101 * PACKETS
    assert filters(device, direction) == [(1, "flowstream")]


@DIRECTIONS
def test_it_runs_before_other_programs_and_leaves_them(ends, holders, direction):
    """One that takes every packet has the first handle of the first priority."""
    ours, other = holders
    device = device_of(ends, direction)
    with CountingProgram(TAKE) as theirs, CountingProgram() as mine, CountingProgram() as second:
        foreign = other.add(device.index, direction, theirs.fd)
        place = ours.add(device.index, direction, mine.fd)
        arrive(ends)
        assert (mine.packets, theirs.packets) == (PACKETS, PACKETS)
        ours.replace(place, second.fd)
        arrive(ends)
        assert (second.packets, theirs.packets) == (PACKETS, 2 * PACKETS)
        ours.remove(place)
        arrive(ends)
        assert theirs.packets == 3 * PACKETS
        assert other.program_of(foreign) == theirs.id
        other.remove(foreign)
    assert qdiscs(device) == []


@DIRECTIONS
def test_it_runs_behind_filters_of_another_kind_that_have_the_first_priorities(
    ends, holders, programs, direction
):
    ours, _ = holders
    device = device_of(ends, direction)
    tc(device, "qdisc add DEV clsact")
    for priority in (1, 2, 4):
        add_foreign(device, direction, priority)
    show = f"filter show DEV {POINTS[direction]}"
    before = tc(device, show)
    place = ours.add(device.index, direction, programs[0].fd)
    assert place.priority == 3
    arrive(ends)
    assert programs[0].packets == PACKETS
    ours.remove(place)
    assert tc(device, show) == before
    assert qdiscs(device) == ["clsact"]


def test_a_qdisc_that_others_made_or_use_stays(ends, holders, programs):
    ours, _ = holders
    theirs, used = ends
    tc(theirs, "qdisc add DEV clsact")
    ours.remove(ours.add(theirs.index, EGRESS, programs[0].fd))
    assert qdiscs(theirs) == ["clsact"]
    place = ours.add(used.index, EGRESS, programs[0].fd)
    add_foreign(used, INGRESS, 7)
    before = tc(used, "filter show DEV ingress")
    ours.remove(place)
    assert qdiscs(used) == ["clsact"]
    assert tc(used, "filter show DEV ingress") == before != ""


def test_the_last_of_several_holders_deletes_the_qdisc(ends, holders, programs):
    device = ends.receiver
    places = [each.add(device.index, INGRESS, programs[0].fd) for each in holders]
    holders[0].remove(places[0])
    assert holders[1].program_of(places[1]) == programs[0].id
    again = holders[0].add(device.index, INGRESS, programs[0].fd)
    holders[1].remove(places[1])
    assert qdiscs(device) == ["clsact"]
    holders[0].remove(again)
    assert qdiscs(device) == []


def test_what_a_holder_has_left_is_removed_when_another_attaches(ends, holders, programs):
    living, next_one = holders
    device = ends.receiver
    stays = living.add(device.index, INGRESS, programs[0].fd)
    with Filters(new_number()) as ended:
        left = [ended.add(device.index, each, programs[1].fd) for each in (INGRESS, EGRESS)]
    # A filter of another owner, by the name that he chose.
    assert [living.program_of(each) for each in left] == [programs[1].id] * 2
    place = next_one.add(device.index, EGRESS, programs[2].fd)
    found = [next_one.program_of(each) for each in (*left, stays, place)]
    assert found == [0, 0, programs[0].id, programs[2].id]
    arrive(ends)
    assert [each.packets for each in programs] == [PACKETS, 0, 0, 0]
    living.remove(stays)
    next_one.remove(place)
    assert qdiscs(device) == []


def test_two_holders_on_one_interface_do_not_lose_each_others_filters(ends, programs):
    """One finds the qdisc empty and deletes it, the other one finds it there and adds to it."""
    lost: list[int] = []

    def come_and_go(program: CountingProgram) -> None:
        with ends.receiver.namespace.entered(), Filters(new_number()) as holder:
            for _ in range(300):
                place = holder.add(ends.receiver.index, INGRESS, program.fd)
                found = (holder.program_of(place) for _ in range(3))
                lost.extend(each for each in found if each != program.id)
                holder.remove(place)

    threads = [threading.Thread(target=come_and_go, args=(each,)) for each in programs[:2]]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert lost == []
    assert qdiscs(ends.receiver) == []


def test_an_ingress_qdisc_has_room_for_what_is_received_alone(ends, holders, programs):
    ours, _ = holders
    device = ends.receiver
    tc(device, "qdisc add DEV ingress")
    with pytest.raises(KernelError, match="replace it by a clsact qdisc"):
        ours.add(device.index, EGRESS, programs[0].fd)
    assert filters(device, EGRESS) == []
    place = ours.add(device.index, INGRESS, programs[1].fd)
    arrive(ends)
    assert (programs[0].packets, programs[1].packets) == (0, PACKETS)
    ours.remove(place)
    assert qdiscs(device) == ["ingress"]


def test_filters_that_are_gone(ends, holders, programs):
    """With their qdisc, which another process deletes, or with their interface."""
    ours, _ = holders
    device = ends.receiver
    place = ours.add(device.index, EGRESS, programs[0].fd)
    tc(device, "qdisc delete DEV clsact")
    assert ours.program_of(place) == 0
    with pytest.raises(KernelError, match=r"^its filter is gone$"):
        ours.replace(place, programs[1].fd)
    ours.remove(place)
    place = ours.add(device.index, EGRESS, programs[0].fd)
    device.namespace.run("ip", "link", "delete", device.name)
    assert ours.program_of(place) == 0
    ours.remove(place)
    with pytest.raises(KernelError) as refused:
        ours.add(device.index, EGRESS, programs[0].fd)
    assert refused.value.errno == errno.ENODEV


def test_a_program_of_another_owner_in_its_place_stays(ends, holders, programs):
    ours, _ = holders
    device = ends.receiver
    place = ours.add(device.index, INGRESS, programs[0].fd)
    ours.replace(place, programs[1].fd)
    with pytest.raises(KernelError) as refused:
        ours.add(device.index, INGRESS, programs[2].fd)
    assert refused.value.errno == errno.EEXIST
    assert ours.program_of(place) == programs[1].id


def test_a_holder_of_the_same_number_is_refused(ends, holders):
    number = new_number()
    with Filters(number), pytest.raises(KernelError, match=f"{number:#x}.*in use"):
        Filters(number)
    Filters(number).close()
