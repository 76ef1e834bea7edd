"""Creates what an attachment is made of: maps of its own, a load of the program, a link.

The part of a probe that needs privileges. It reads no map and maps no memory.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flowstream.errors import AttachError, KernelError
from flowstream.kernel.attached import linked, needs_lease
from flowstream.kernel.link import Mode
from flowstream.kernel.map import Map
from flowstream.kernel.parts import Parts
from flowstream.kernel.program import Program
from flowstream.kernel.stages import Stage, at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kernel.attached import Lessor
    from flowstream.kernel.link import Hook
    from flowstream.kernel.object import KernelObject, ProgramSpec
    from flowstream.kernel.packet_filter import PacketFilter
    from flowstream.kernel.run_pins import RunPins
    from flowstream.kernel.target import Target

_NOT_PINNED: Final = "--pin at the TC hook requires Linux 6.6 or later: use --hook xdp"


class Creator:
    """Creates attachments of the programs of an object: ``programs`` are their names.

    ``shared`` are descriptors of the maps that all attachments share, by name; they stay
    the caller's. ``own`` are the capacities of each attachment's own maps, by name, 0 for
    that of the object. With ``pins`` there is one of them, the counters. ``packet_filter``
    says what packets are observed, None for all. ``lessor`` keeps
    filters at the TC hook.
    """

    def __init__(
        self,
        obj: KernelObject,
        programs: Mapping[Hook, str],
        shared: Mapping[str, int],
        own: Mapping[str, int],
        pins: RunPins | None = None,
        packet_filter: PacketFilter | None = None,
        lessor: Lessor | None = None,
    ) -> None:
        self.build, self.programs = obj.name, programs
        self.shared, self.own, self.pins = shared, own, pins
        self.packet_filter = packet_filter
        self._lessor = lessor
        self._object = obj
        self._maps = {name: obj.map(name) for name in own}

    def load(self, target: Target, stack: ExitStack) -> tuple[Program, list[Map]]:
        """Make the own maps and load the program, without attaching it. AttachError."""
        with at(Stage.FILTERING, target.mode):
            function = self._function(target)
        with at(Stage.MAPS, target.mode):
            maps = [
                stack.enter_context(self._own_map(name, entries, target))
                for name, entries in self.own.items()
            ]
        fds = {**self.shared, **{each.name: each.fd for each in maps}}
        with at(Stage.LOADING, target.mode):
            spec = self._object.program(self.programs[target.mode.hook])
            return stack.enter_context(_loaded(spec, fds, target, function)), maps

    def _function(self, target: Target) -> bytes:
        if self.packet_filter is None:
            return b""
        return self.packet_filter.function(target.mode.hook, raw=target.raw)

    def _own_map(self, name: str, entries: int, target: Target) -> Map:
        spec = self._maps[name]
        fd = self.pins.counters_of(target) if self.pins else None
        return Map(spec, entries or None) if fd is None else Map.from_fd(fd, spec, entries or None)

    def create(self, target: Target) -> Parts:
        """Load and attach, in the network namespace of the calling thread.

        AttachError says at what stage the kernel refused.
        """
        if self.pins is not None and needs_lease(target):
            raise AttachError(_NOT_PINNED, errno.EOPNOTSUPP, stage=Stage.PINNING, mode=Mode.CLSACT)
        with ExitStack() as stack:
            program, maps = self.load(target, stack)
            if self.pins is None:
                link = linked(program.fd, target, self._lessor)
                stack.callback(link.close)
            else:
                with self.pins.attaching(target, maps[0].fd) as pin:
                    link = linked(program.fd, target, self._lessor)
                    stack.callback(link.close)
                    pin(link)
            stack.pop_all()
        return Parts(link.mode, (program.fd, link.fd, *(each.fd for each in maps)), link.not_first)


def _loaded(spec: ProgramSpec, fds: Mapping[str, int], target: Target, function: bytes) -> Program:
    """Load the program; a KernelError names the filter if it loads without."""
    try:
        return Program(spec, fds, target, function)
    except KernelError as err:
        if not function:
            raise
        try:
            Program(spec, fds, target).close()
        except KernelError:
            raise err from None
        text = f"the kernel refuses --filter, which may be too long: {err}"
        raise KernelError(text, err.errno) from err
