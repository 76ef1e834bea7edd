"""Audits of runs made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.audit import Audit, Result
from flowstream.records import Loss, StageCounts
from support.published import FLOWS, IN_DOUBT, LOSSES, Published, stages

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
