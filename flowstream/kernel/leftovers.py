"""What an earlier run has left in the kernel, opened by its pins: exact once it is frozen.

leftovers = open_earlier(directory)       # all of them, or KernelError
…  every link in ``links`` is taken over by another program, or detached
each.freeze(); each.drain(…); each.counters(code); each.remove()
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.errors import KernelError, LayoutError
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import generation as pins
from flowstream.kernel import libbpf, structures
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.flow import BUILD
from flowstream.kernel.flow_maps import flow_ring, kernel_counts
from flowstream.kernel.maps import HashMap, MapOfMaps, PerCpuArray
from flowstream.kernel.pinned_link import PinnedLink
from flowstream.kernel.rates import Rates
from flowstream.kernel.tables import SLOT, TABLE, FlowTables
from flowstream.layouts import flow as layout
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from flowstream.accounting.amounts import KernelCounts
    from flowstream.kernel.generation import Generation
    from flowstream.kernel.object import KernelObject
    from flowstream.kernel.pin_directory import PinDirectory

READ_RECORDS: Final = 8_192
"""Records taken out of a ring buffer at once."""


class Leftovers(Closing):
    """The maps and links of one earlier generation.

    ``books`` is what the run noted, ``codes`` its attachments, ``links`` the programs of those
    that were not detached, by code. ``rates`` labels its records: set those that the books
    tell. Raises KernelError with the path, LayoutError when another version made maps that
    this one cannot read. Closing it, also twice, changes no pin.
    """

    def __init__(self, generation: Generation, obj: KernelObject) -> None:
        self.generation = generation
        self.epoch = generation.epoch
        self.rates = Rates(1)
        self._counters = obj.map("counters")
        with ExitStack() as stack, _explained(generation):
            enter = stack.enter_context
            self.books = enter(BooksMap.from_fd(generation.open(pins.BOOKS)))
            tables = [enter(_table(generation, name, obj)) for name in pins.TABLES]
            slot = enter(MapOfMaps.from_fd(generation.open(pins.SLOT), obj.map(SLOT)))
            self._tables = FlowTables(tables, slot, self.rates)
            self.rings = []
            for name in _RINGS:
                self.rings.append(flow_ring(obj, name, generation.open(name)))
                enter(self.rings[-1].raw)
            self.codes = generation.codes("counters")
            for code in self.codes:
                self.counters(code)
            self.links = {
                code: enter(PinnedLink(generation, code)) for code in generation.codes("link")
            }
            self._stack = stack.pop_all()

    @property
    def max_flows(self) -> int:
        """Flows that each of its tables holds."""
        return self._tables.capacity

    def counters(self, code: int) -> KernelCounts:
        """Counts of one attachment; exact once frozen."""
        with PerCpuArray.from_fd(
            self.generation.open(pins.counters_pin(code)), self._counters, layout.COUNTERS
        ) as counters:
            return kernel_counts(counters)

    def freeze(self) -> None:
        """Wait for the end of the last runs of its programs: then nothing changes any more.

        Only once no link of any earlier generation runs one of them. Blocks, up to about
        100 ms.
        """
        self._tables.freeze()

    def drain(self, end_reason: int) -> Iterator[tuple[Stream, NDArray[np.void]]]:
        """Take out all records of both tables and both rings, as batches; blocks.

        What an abandoned iteration leaves, the next one returns.
        """
        for ring in self.rings:
            while len(batch := ring.read(READ_RECORDS)):
                yield ring.stream, batch
        for batch in self._tables.drain_inactive(end_reason):
            yield Stream.FLOWS, batch

    def remove(self) -> None:
        """Remove all its pins, and with them its maps; closes it."""
        self.generation.remove()
        self.close()

    def close(self) -> None:
        """Release everything; harmless twice."""
        self._stack.close()
        self.generation.close()


_RINGS: Final = (pins.OVERFLOW, pins.ANNOUNCEMENTS)


def open_earlier(directory: PinDirectory) -> list[Leftovers]:
    """Open all generations that are there, oldest first; none when one of them cannot be.

    A generation whose run ended before it attached to anything is removed.
    """
    obj = bpf_compile.obtain(BUILD)
    with ExitStack() as stack:
        found: list[Leftovers] = []
        for generation in directory.generations():
            stack.enter_context(generation)
            if not generation.complete:
                _require_no_links(generation)
                generation.remove()
                continue
            found.append(stack.enter_context(Leftovers(generation, obj)))
        stack.pop_all()
    return found


def _require_no_links(generation: Generation) -> None:
    if generation.codes("link"):
        raise KernelError(f"{generation.path}: its books are missing; {_REMEDY}")


_REMEDY: Final = "remove it with flowstream detach"


def _table(generation: Generation, name: str, obj: KernelObject) -> HashMap:
    """Open a flow table of whatever capacity."""
    fd = generation.open(name)
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        capacity = libbpf.object_info(structures.MapInfo, fd).max_entries
        stack.pop_all()
    return HashMap.from_fd(fd, obj.map(TABLE), layout.FLOW_KEY, layout.FLOW_VALUE, capacity)


@contextmanager
def _explained(generation: Generation) -> Iterator[None]:
    try:
        yield
    except LayoutError as err:
        raise LayoutError(
            f"{generation.path}: left by another version of flowstream: {err}; {_REMEDY}"
        ) from err
