"""TCX links: their order, their programs, what is refused. The programs here do nothing."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.net import namespace, veth_pair
from support.programs import NEXT
from support.tcx import programs

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.errors import AttachError, LayoutError
from flowstream.kernel import libbpf
from flowstream.kernel.link import Hook, Link, Mode, number_of, program_in_force
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Interface


@pytest.fixture(name="device")
def _device() -> Iterator[Interface]:
    with namespace() as place, veth_pair(place) as wire, place.entered():
        yield wire.receiver


def program(stack: ExitStack, name: str = "next") -> int:
    """Descriptor of a new program that leaves every packet to the next one."""
    fd = libbpf.prog_load(name, NEXT, kind=libbpf.BPF_PROG_TYPE_SCHED_CLS)
    stack.callback(os.close, fd)
    return fd


def number(fd: int) -> int:
    """Id of a program."""
    return libbpf.prog_info(fd)[0]


@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
def test_a_link_is_first_in_its_direction_and_takes_another_program(
    device: Interface, direction: int
) -> None:
    with ExitStack() as stack:
        theirs, ours, successor = (program(stack) for _ in range(3))
        stack.enter_context(Link(theirs, device.index, Mode.TCX, direction))
        link = stack.enter_context(Link(ours, device.index, Mode.TCX, direction))
        assert programs(device, direction) == [number(ours), number(theirs)]
        assert programs(device, 1 - direction) == []
        assert program_in_force(link.fd) == number(ours)
        again = stack.enter_context(
            Link.take_over(link.fd, successor, device.index, Mode.TCX, direction)
        )
        assert (again.mode, number_of(again.fd)) == (Mode.TCX, number_of(link.fd))
        assert programs(device, direction) == [number(successor), number(theirs)]
        link.close()
        assert program_in_force(again.fd) == number(successor)
        again.detach()
        assert programs(device, direction) == [number(theirs)]


def test_a_link_of_another_direction_hook_or_interface_is_not_adopted(device: Interface) -> None:
    with ExitStack() as stack:
        ours = program(stack)
        link = stack.enter_context(Link(ours, device.index, Mode.TCX, EGRESS))
        for index, mode, direction, difference in (
            (device.index, Mode.TCX, INGRESS, "attach type 47, expected 46"),
            (device.index, Mode.NATIVE, INGRESS, "type 11, expected 6"),
            (device.index + 1, Mode.TCX, EGRESS, f"interface index {device.index}, expected"),
        ):
            with pytest.raises(LayoutError, match=difference):
                Link.from_fd(os.dup(link.fd), index, mode, direction)
            with pytest.raises(LayoutError, match=difference):
                Link.take_over(link.fd, program(stack), index, mode, direction)
        assert program_in_force(link.fd) == number(ours)
        same = stack.enter_context(Link.from_fd(os.dup(link.fd), device.index, Mode.TCX, EGRESS))
        assert number_of(same.fd) == number_of(link.fd)


def test_a_link_of_an_interface_that_is_gone_has_no_program(device: Interface) -> None:
    with ExitStack() as stack:
        link = stack.enter_context(Link(program(stack), device.index, Mode.TCX, EGRESS))
        device.namespace.run("ip", "link", "delete", device.name)
        assert program_in_force(link.fd) == 0
        for make in (
            lambda: Link(program(stack), device.index, Mode.TCX, EGRESS),
            lambda: Link.from_fd(os.dup(link.fd), device.index, Mode.TCX, EGRESS),
            lambda: Link.take_over(link.fd, program(stack), device.index, Mode.TCX, EGRESS),
        ):
            with pytest.raises(AttachError) as refused:
                make()
            assert refused.value.errno == errno.ENODEV


def test_the_hook_is_told_by_the_mode() -> None:
    assert {mode for mode in Mode if mode.hook is Hook.TC} == {Mode.TCX, Mode.CLSACT}
    assert Target("eth0", 2, 2, Mode.TCX, direction=EGRESS).key == (2, EGRESS)
    for mode in (Mode.AUTO, Mode.NATIVE, Mode.GENERIC, Mode.OFFLOAD):
        with pytest.raises(ValueError, match="XDP sees received packets only"):
            Target("eth0", 2, 2, mode, direction=EGRESS)
