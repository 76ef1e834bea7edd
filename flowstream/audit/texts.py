"""Parts of sentences that problems, notes and tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.audit.result import GAPS_SHOWN
from flowstream.wording import counted

if TYPE_CHECKING:
    from flowstream.audit.result import Amount, Topic

RECORDS_ARE: Final = ("record is", "records are")


def amount_text(amount: Amount, form: str = ",") -> str:
    """Return "2 packets and 120 octets"; ``form`` is the numbers' format."""
    packets = counted(amount.packets, "packet", form=form)
    return f"{packets} and {counted(amount.l2_bytes, 'octet', form=form)}"


def gaps_text(topic: Topic) -> str:
    """First ranges of missing numbers."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in topic.gaps]
    return ", ".join(shown) + (", ..." if len(topic.gaps) == GAPS_SHOWN else "")
