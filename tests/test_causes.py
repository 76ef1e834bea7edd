"""Causes of loss: those that the sources can produce are the listed ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.causes import causes

import flowstream
from flowstream.accounting import terms

PACKAGE = Path(flowstream.__file__).parent
# Rooms that report losses. Elsewhere a cause is read, or is an exception's.
ROOMS = (
    *("accounting", "agent", "chain", "delivery", "following", "kafka", "kernel"),
    *("pipeline", "segments", "spool"),
)

PATHS = [path for room in ROOMS for path in (PACKAGE / room).glob("*.py")]


def test_the_causes_of_the_sources_are_the_listed_ones():
    found = causes(path.read_text(encoding="utf-8") for path in PATHS)
    assert found == {*terms.LOSSES, *terms.IN_DOUBT}


def test_causes_are_named_in_one_module():
    others = (path for path in PATHS if path.name != "terms.py")
    assert causes(path.read_text(encoding="utf-8") for path in others) == set()


def test_causes_of_doubt_are_causes_of_loss_except_after_a_kill():
    assert set(terms.IN_DOUBT) - set(terms.LOSSES) == {terms.AGENT_KILLED}


@pytest.mark.parametrize(
    "source",
    [
        "def failed(self, batch, part, cause): ...\nself.o.failed(b, slice(0), 'made_up')",
        "def lost(tally, cause): ...\nlost(tally, cause='made_up')",
        "def lost(tally, cause): ...\nMADE_UP: Final = 'made_up'\nledger.lost(tally, MADE_UP)",
        "async def flush(self, timeout, cause): ...\nawait self.flush(1, 'made_up')",
        "def write(batch):\n    return written, 'made_up'",
        "written, cause = write(batch) or (0, 'made_up')",
        "publisher.discard = 'made_up'",
        "KernelCounts(losses={'made_up': LossCount()})",
        "self.losses = {'made_up': LossCount()}",
    ],
)
def test_a_made_up_cause_is_found(source):
    assert causes([source]) == {"made_up"}
