"""Parts of sentences that problems, notes and tables share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flowstream.audit.result import GAPS_SHOWN
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.audit.result import Amount, Topic

RUNS_NAMED: Final = 5
"""How many runs a sentence names."""
RECORDS_ARE: Final = ("record is", "records are")


def amount_text(amount: Amount, form: str = ",") -> str:
    """Return "2 packets and 120 octets"; ``form`` is the numbers' format."""
    packets = counted(amount.packets, "packet", form=form)
    return f"{packets} and {counted(amount.l2_bytes, 'octet', form=form)}"


def run_text(agent_epoch: int) -> str:
    """Return "run of 2026-11-26 02:50:20 UTC (agent_epoch 1795661420000000000)"."""
    return f"run of {utc_text(agent_epoch)} (agent_epoch {agent_epoch})"


def runs_text(epochs: Sequence[int]) -> str:
    """Epochs of the first of these runs, separated by commas."""
    shown = ", ".join(map(str, epochs[:RUNS_NAMED]))
    return shown + (", ..." if len(epochs) > RUNS_NAMED else "")


def utc_text(unix_ns: int) -> str:
    """Return "2026-11-26 02:50:20 UTC"."""
    return f"{datetime.fromtimestamp(unix_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC"


def gaps_text(topic: Topic) -> str:
    """First ranges of missing numbers."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in topic.gaps]
    return ", ".join(shown) + (", ..." if len(topic.gaps) == GAPS_SHOWN else "")
