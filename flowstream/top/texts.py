"""Texts of numbers, rates and losses, for the screen and for the plain table."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flowstream.wording import counted, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.records import Amount, Loss
    from flowstream.top.interfaces import Interface
    from flowstream.top.model import State

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_UNITS: Final = ("", "k", "M", "G", "T", "P", "E")
_DAY_S: Final = 86_400
_IDLE_S: Final = 10


def short(number: float | None) -> str:
    """Return a number with three digits and a decimal prefix: "999", "1.23k", "45.6M"."""
    if number is None:
        return "-"
    place = 0
    while number >= 999.5 and place < len(_UNITS) - 1:
        number /= 1000
        place += 1
    if place == 0:
        return f"{number:.0f}" if number == int(number) or number >= 9.95 else f"{number:.1f}"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}{_UNITS[place]}"


def sparkline(rates: Sequence[float], width: int) -> str:
    """Return the latest ``width`` rates as blocks; the highest of them is a whole block."""
    shown = rates[-width:] if width > 0 else []
    highest = max(shown, default=0)
    if highest <= 0:
        return _BLOCKS[0] * len(shown)
    return "".join(_BLOCKS[round(rate / highest * (len(_BLOCKS) - 1))] for rate in shown)


def place_of(interface: Interface, *, with_host: bool) -> str:
    """Return the name of an interface, with its namespace and, if wanted, its host."""
    name = f"{interface.interface} ({interface.netns})" if interface.netns else interface.interface
    return f"{interface.host}: {name}" if with_host else name


def lag_text(state: State) -> str:
    """Return how old the newest record was when it was read, and for how long none has come."""
    if state.lag_s is None:
        return "no records yet"
    if state.lag_s > _DAY_S:
        newest = datetime.fromtimestamp(time.time() - state.lag_s, UTC)
        return f"newest of {newest:%Y-%m-%d %H:%M} UTC"
    idle = f", none for {state.idle_s:.0f} s" if state.idle_s >= _IDLE_S else ""
    return f"lag {state.lag_s:.1f} s{idle}"


def read_text(state: State) -> str:
    """Return which part of the records was read, where some were skipped."""
    if not state.skipped:
        return ""
    share = 100 * state.read / (state.read + state.skipped)
    # 100 % would be wrong.
    return f"{min(share, 99.9):.1f} % of records read"


def loss_text(interfaces: Sequence[Interface]) -> str:
    """Return the losses by cause, or nothing where there are none."""
    causes: dict[str, int] = {}
    packets = records = 0
    for interface in interfaces:
        packets += interface.lost.packets
        records += interface.lost.records
        for cause, loss in interface.losses.items():
            causes[cause] = causes.get(cause, 0) + (loss.packets or loss.records)
    if not records and not packets:
        return ""
    found = sorted(causes.items(), key=lambda each: each[1], reverse=True)
    # Causes that this version does not know may have any name.
    listed = ", ".join(f"{printable(cause)} {amount:,}" for cause, amount in found if amount)
    return f"LOST {counted(packets, 'packet')} in {counted(records, 'record')}: {listed}"


def other_terms(interfaces: Sequence[Interface]) -> str:
    """Return the other terms of the loss equation, in packets."""
    no_flow = sum(_packets(each.no_flow) for each in interfaces)
    terms = {
        "in doubt": sum(_packets(each.in_doubt) for each in interfaces),
        "spooled": sum(each.spooled.packets for each in interfaces),
    }
    seen = sum(each.seen.packets for each in interfaces)
    listed = [f"{name} {short(amount)}" for name, amount in terms.items() if amount]
    return ", ".join([*listed, f"no flow {short(no_flow)} of {short(seen)} packets seen"])


def _packets(amounts: Mapping[str, Amount | Loss]) -> int:
    return sum(each.packets for each in amounts.values())
