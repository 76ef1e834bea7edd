"""The drain of the flow tables, with entries that the test puts there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowstream.kernel.flow import FlowProbe
from flowstream.layouts import flow as layout
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

FLOWS = 1_009


@pytest.fixture
def probe(monkeypatch) -> Iterator[FlowProbe]:
    """A probe whose active table has ``FLOWS`` flows, which take several batches."""
    monkeypatch.setattr("flowstream.kernel.maps.BATCH", 101)
    with FlowProbe(max_flows=4_096) as made:
        fill(made, range(FLOWS))
        yield made


def fill(probe: FlowProbe, numbers: Iterable[int]) -> None:
    for number in numbers:
        key, value = np.zeros(1, layout.FLOW_KEY), np.zeros(1, layout.FLOW_VALUE)
        key["src_port"], value["packets"] = number, 1
        probe.tables.active.update(key, value)


def ports(batches: Iterable[NDArray[np.void]]) -> list[int]:
    return sorted(port for batch in batches for port in batch["src_port"].tolist())


def in_another_thread(probe: FlowProbe) -> list[int]:
    """Drain as the end of a run does; fail when it takes forever."""
    found: list[int] = []
    drain = threading.Thread(
        target=lambda: found.extend(ports(probe.drain(EndReason.FORCED))), daemon=True
    )
    drain.start()
    drain.join(10)
    assert not drain.is_alive(), "the drain waits for one that was abandoned"
    return found


def test_a_drain_that_is_abandoned_and_still_referred_to_holds_up_no_other(probe):
    """As by the traceback of the exception that ended it."""
    abandoned = probe.drain(EndReason.INTERVAL_OVER)
    first = ports([next(abandoned)])
    rest = in_another_thread(probe)
    assert sorted(first + rest) == list(range(FLOWS))


def test_an_old_drain_takes_nothing_out_of_a_table_that_is_active_again(probe):
    """Programs would still add to the entries."""
    old = probe.drain(EndReason.INTERVAL_OVER)
    first = ports([next(old)])
    rest = in_another_thread(probe)
    fill(probe, range(FLOWS, 2 * FLOWS))
    assert ports(old) == []
    assert in_another_thread(probe) == list(range(FLOWS, 2 * FLOWS))
    assert sorted(first + rest) == list(range(FLOWS))
