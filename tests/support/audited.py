"""Audits of runs made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.audit import Audit, Result
from flowstream.records import Loss, SpoolCounts, StageCounts
from support.published import FLOWS, IN_DOUBT, LOSSES, Published, stages
from support.records import EPOCH

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def result_of(*published: Published, batch: int = 7) -> Result:
    messages = [message for each in published for message in each.messages()]
    accounts = Audit()
    for start in range(0, len(messages), batch):
        accounts.add(messages[start : start + batch])
    if accounts.repeats:
        accounts.compare(messages)
    return accounts.result()


def problems_of(*published: Published) -> list[str]:
    result = result_of(*published)
    problems = [problem for run in result.runs for problem in run.problems]
    assert result.holds == (not problems)
    return problems


def sums(flows: NDArray[np.void]) -> tuple[int, int]:
    return int(flows["packets"].sum()), int(flows["l2_bytes"].sum())


def spooled(
    record_format: str = "json", waiting: int = 11, *, drained: int = 0, failed: int = 0
) -> Published:
    """A run that ended in an outage: its last flow records wait in the spool.

    Of them the first ``drained`` were published later; before them some failed.
    """
    published = Published(record_format)
    begin = FLOWS - waiting
    given_up = published.flows[begin - failed : begin]
    counts = StageCounts(42, FLOWS, FLOWS, begin - failed, waiting, failed, 0)
    published.change_counters(
        1,
        losses=LOSSES | {"message_too_large": Loss(failed, *sums(given_up))},
        stages=stages(counts),
        spool=SpoolCounts(waiting, *sums(published.flows[begin:]), 8_209, EPOCH),
    )
    del published.values[begin + drained : FLOWS]
    del published.values[begin - failed : begin]
    return published


def with_doubt(
    record_format: str, missing: int, *, doubtful: int = 5, failed: int = 0
) -> Published:
    """A run whose last flow records are in doubt and before these failed; some are missing."""
    published = Published(record_format)
    given_up = published.flows[FLOWS - doubtful - failed : FLOWS - doubtful]
    counts = StageCounts(42, FLOWS, FLOWS, FLOWS - doubtful - failed, 0, failed, 0)
    published.change_counters(
        1,
        losses=LOSSES | {"delivery_timeout": Loss(failed, *sums(given_up))},
        in_doubt=IN_DOUBT | {"shutdown": Loss(doubtful, *sums(published.flows[-doubtful:]))},
        stages=stages(counts),
    )
    del published.values[FLOWS - missing : FLOWS]
    del published.values[FLOWS - doubtful - failed : FLOWS - doubtful]
    return published
