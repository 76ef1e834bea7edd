"""Time until the program runs on many interfaces."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from support.net import namespace

from bench.measure import Row, Table, interleave
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.kernel.flow import FlowAttachment

INTERFACES: Final = 64
TARGET_MS: Final = 1_000
ROUNDS: Final = 5


def measure() -> Iterator[Table]:
    """Attach to veths, one after the other, as an agent does that starts."""
    with ExitStack() as stack:
        place = stack.enter_context(namespace())
        for number in range(INTERFACES):
            pair = (f"near{number}", "up", "type", "veth", "peer", "name", f"far{number}")
            place.run("ip", "link", "add", *pair)
        stack.enter_context(place.entered())
        probe = stack.enter_context(FlowProbe())
        one = "one interface, native"
        cases: dict[str, Callable[[], float]] = {one: lambda: _attach(probe, 1)}
        for mode in (Mode.NATIVE, Mode.GENERIC):
            cases[f"{INTERFACES} interfaces, {mode}"] = lambda mode=mode: _attach(  # type: ignore[misc]
                probe, INTERFACES, mode
            )
        samples = interleave(cases, ROUNDS)
        base = samples[one]
        yield Table(
            "Maps, program and link of each interface, in one process",
            "ms",
            "one interface",
            [Row(name, taken, base, target=TARGET_MS) for name, taken in samples.items()],
        )


def _attach(probe: FlowProbe, count: int, mode: Mode = Mode.NATIVE) -> float:
    """Milliseconds to attach to ``count`` interfaces."""
    targets = [Target.named(f"near{number}", mode) for number in range(count)]
    attached: list[FlowAttachment] = []
    began = time.perf_counter()
    try:
        attached.extend(attach_here(probe, target) for target in targets)
        return (time.perf_counter() - began) * 1000
    finally:
        for each in attached:
            each.close()
