"""Every fault: what must be seen, and that the audit accounts for every packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.users import open_to_all

from faults.clusters import Running
from faults.scene import Scene, run
from faults.suite import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.scene import Fault


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    one = Running()
    yield one
    one.close()


@pytest.fixture
def scene(fault, running, wire, tmp_path) -> Iterator[Scene]:
    open_to_all(tmp_path)
    one = Scene(running.of(fault.cluster), wire, tmp_path, fault.options)
    if fault.disk:
        one.mount(fault.disk)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            id=f"{fault.cluster}-{fault.name}",
            marks=() if fault.in_ci else pytest.mark.faults,
        )
        for fault in FAULTS
    ],
)
def test_fault(fault: Fault, scene: Scene, running: Running) -> None:
    try:
        run(fault, scene)
    except BaseException:
        running.close()
        raise


def test_the_suite_is_as_large_as_promised() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40
