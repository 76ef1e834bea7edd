"""The terms of the loss equation with their names, of one interface or summed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.audit.result import Amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowstream.audit.result import Interface

SEEN: Final = "seen"
PUBLISHED: Final = "in published flows"
NO_FLOW: Final = "no flow: "
LOST: Final = "lost: "
IN_DOUBT: Final = "in doubt: "
IN_SPOOL: Final = "in the spool"
DIFFERENCE: Final = "difference"
_ALWAYS_SHOWN: Final = (SEEN, PUBLISHED, DIFFERENCE)


def equation(interface: Interface) -> dict[str, Amount]:
    """Terms of an interface in their order: what was seen first, the difference last.

    Reasons and causes follow ``NO_FLOW``, ``LOST`` and ``IN_DOUBT``. What is in doubt or in
    the spool is no part of the sum: it explains the difference.
    """
    losses, doubts = interface.losses.items(), interface.in_doubt.items()
    return {
        SEEN: interface.seen,
        PUBLISHED: interface.flows,
        **{f"{NO_FLOW}{reason}": amount for reason, amount in interface.no_flow.items()},
        **{f"{LOST}{cause}": Amount(loss.packets, loss.l2_bytes) for cause, loss in losses},
        **{f"{IN_DOUBT}{cause}": Amount(loss.packets, loss.l2_bytes) for cause, loss in doubts},
        IN_SPOOL: interface.waiting,
        DIFFERENCE: interface.difference,
    }


def summed(interfaces: Iterable[Interface]) -> dict[str, Amount]:
    """Sum of the terms of several interfaces, in the same order."""
    sums: dict[str, Amount] = {}
    for interface in interfaces:
        for term, amount in equation(interface).items():
            sums[term] = Amount.total((sums.get(term, Amount(0, 0)), amount))
    # The first interface need not have had every term.
    sums[DIFFERENCE] = sums.pop(DIFFERENCE)
    return sums


def visible(terms: Mapping[str, Amount]) -> dict[str, Amount]:
    """Return the terms for people, in the same order: most of those that are 0 are left out."""
    return {
        term: amount
        for term, amount in terms.items()
        if amount.packets or amount.l2_bytes or term in _ALWAYS_SHOWN
    }
