"""The screen as lines of styled text, for any size of the terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.top.grouping import GROUPS
from flowstream.top.model import Order
from flowstream.top.texts import (
    lag_text,
    loss_text,
    other_terms,
    place_of,
    read_text,
    short,
    sparkline,
)
from flowstream.wording import counted, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.top.interfaces import Interface
    from flowstream.top.model import View

Line = list[tuple[str, str]]
"""Pieces of text, each with its style: "", or words out of bold, dim, reverse and red."""

_SHORTEST_SOURCE: Final = 8
"""Columns that the name of a source has in the title at least."""
COLUMNS: Final = (
    ("OCTETS/S", Order("l2_bytes")),
    ("PKTS/S", Order("packets")),
    ("RECS/S", Order("records")),
    ("NEW/S", Order("new_flows")),
    ("OCTETS", Order("l2_bytes", late=False)),
    ("PACKETS", Order("packets", late=False)),
)
"""Columns of the table, each with the order that sorts by it."""
_COLUMN: Final = 10
_KEY: Final = 20
_WIDEST_KEY: Final = 84
"""Two IPv6 addresses."""
_FEW_LINES: Final = 16

HELP: Final = (
    ("q, Ctrl-C", "quit; Ctrl-Z: suspend"),
    ("Space, p", "pause the screen; reading goes on"),
    ("s, >, <", "sort by the next or previous column"),
    ("r", "reverse the order"),
    ("g, Tab, 1-5", "group by source, destination, conversation, port, protocol"),
    ("/, f", "filter, in the language of cat --where; totals begin anew"),
    ("d", "direction: both, ingress, egress; totals begin anew"),
    ("n", "names for addresses, from the resolver"),
    ("arrows, PgUp, PgDn", "scroll; Home: to the beginning"),
    ("?, h", "this help; any key closes it"),
)


class Choice(NamedTuple):
    """What the user chose: what is shown, and how."""

    source: str
    group: str
    column: int = 0
    reverse: bool = False
    offset: int = 0
    condition: str = ""
    direction: int | None = None
    paused: bool = False
    whole: bool = False
    ended: bool = False

    @property
    def order(self) -> Order:
        """The order of rows."""
        return COLUMNS[self.column][1]._replace(reverse=self.reverse)


def rows_that_fit(height: int, interfaces: int) -> int:
    """Return how many rows of the table a screen of ``height`` lines has room for."""
    return max(height - 3 - _interface_lines(height, interfaces), 1)


def draw(
    view: View, choice: Choice, names: Mapping[str, str], width: int, height: int
) -> list[Line]:
    """Return the lines of a screen of this size, at most ``height``, none wider than ``width``."""
    lines = [_title(choice, width), _status(view, choice)]
    if room := _interface_lines(height, len(view.state.interfaces)):
        lines += _interfaces(view.state.interfaces, room, width)
    lines += _table(view, choice, names, width)
    return [_cut(line, width) for line in lines[:height]]


def help_lines(width: int, height: int) -> list[Line]:
    """Return the lines of the help."""
    title: Line = [("flowstream top: keys", "bold")]
    lines = [title, *([(f"{keys:<20}", "bold"), (text, "")] for keys, text in HELP)]
    return [_cut(line, width) for line in lines[:height]]


def _title(choice: Choice, width: int) -> Line:
    """Return what is shown; the source's name gives way where there is no room for it."""
    chosen = [f"by {choice.group}"]
    if choice.direction is not None:
        chosen.append(("ingress", "egress")[choice.direction])
    shown: Line = [(", ".join(chosen), "bold")]
    if choice.paused:
        shown += [(" ", ""), (" PAUSED ", "reverse")]
    if choice.condition:
        shown.append((f" where {printable(choice.condition)}", ""))
    program, source = "flowstream top ", printable(choice.source)
    room = max(width - len(program) - 1 - sum(len(text) for text, _ in shown), _SHORTEST_SOURCE)
    if len(source) > room:
        source = f"...{source[len(source) - room + 3 :]}"
    return [(program, "bold"), (f"{source} ", ""), *shown]


def _status(view: View, choice: Choice) -> Line:
    over = (
        f"average of {view.state.seconds:.0f} s"
        if choice.whole
        else f"last {view.state.seconds:.0f} s"
    )
    first, last = choice.offset + 1, choice.offset + len(view.rows)
    rows = f"rows {first}-{last} of {view.row_count:,}" if view.rows else "no rows"
    texts = [lag_text(view.state), over, rows]
    if view.evicted:
        texts.append(f"{view.evicted:,} others of {short(view.others.total.l2_bytes)} octets")
    if choice.ended:
        texts.insert(0, "all read")
    line: Line = []
    if share := read_text(view.state):
        line += [(f" {share} ", "bold reverse" if view.state.skipping else "reverse"), (" ", "")]
    line.append((", ".join(texts), ""))
    return [*line, *((f"; {printable(note)}", "bold") for note in view.state.notes)]


def _interface_lines(height: int, interfaces: int) -> int:
    """Lines for interfaces, and one for the losses; none before there are counters."""
    if not interfaces:
        return 0
    return 2 if height < _FEW_LINES else 1 + min(interfaces, height // 5)


def _interfaces(interfaces: Sequence[Interface], room: int, width: int) -> list[Line]:
    """The busiest interfaces, those that lose first, and the terms of the loss equation."""
    with_host = len({each.host for each in interfaces}) > 1
    # Stable: by traffic among themselves.
    ranked = sorted(interfaces, key=lambda each: not each.losing)
    named = [(place_of(each, with_host=with_host), each) for each in ranked[: room - 1]]
    key = min(max(len(name) for name, _ in named), max(width // 3, 8))
    lines = [_interface(name, each, key, width) for name, each in named]
    terms = other_terms(interfaces)
    if more := len(interfaces) - len(named):
        terms += f", {counted(more, 'more interface')}"
    if loss := loss_text(interfaces):
        losing = any(each.losing for each in interfaces)
        return [*lines, [(loss, "bold red reverse" if losing else "bold red"), (f"; {terms}", "")]]
    return [*lines, [(f"no losses, {terms}", "dim")]]


def _interface(name: str, interface: Interface, key: int, width: int) -> Line:
    direction = "in" if interface.direction == "ingress" else "out"
    rates = f"{short(interface.octets_per_s):>6} B/s {short(interface.packets_per_s):>6} p/s "
    line: Line = [(f"{_fit(name, key)} {direction:<4}", "bold"), (rates, "")]
    lost = interface.lost
    loss = f" lost {short(lost.packets or lost.records)}" if lost.records or lost.packets else ""
    end = " ended" if interface.final else ""
    room = width - key - 5 - len(rates) - len(loss) - len(end)
    line.append((sparkline(interface.rates, room), "dim"))
    return [*line, (loss, "bold red"), (end, "dim")]


def _table(view: View, choice: Choice, names: Mapping[str, str], width: int) -> list[Line]:
    texts = [GROUPS[choice.group].text(row.key, names) for row in view.rows]
    columns = _columns(width, max(map(len, texts), default=0), choice.column)
    key = min(width - _COLUMN * len(columns), _WIDEST_KEY)
    arrow = "▲" if choice.reverse else "▼"
    head: Line = [(_fit(choice.group.upper(), key), "bold reverse")]
    for place in columns:
        sorted_by = place == choice.column
        text = f"{COLUMNS[place][0]}{arrow if sorted_by else ''}"
        head.append((f"{text:>{_COLUMN}}", "bold reverse" if sorted_by else "reverse"))
    lines = [head]
    for row, text in zip(view.rows, texts, strict=True):
        line: Line = [(_fit(text, key), "")]
        for place in columns:
            order = COLUMNS[place][1]
            amount: float = getattr(row.sums.late if order.late else row.sums.total, order.amount)
            if order.late:
                amount = amount / view.state.seconds if view.state.seconds > 0 else 0
            line.append((f"{short(amount):>{_COLUMN}}", "bold" if place == choice.column else ""))
        lines.append(line)
    return lines


def _columns(width: int, longest: int, sorted_by: int) -> list[int]:
    """Columns for which the longest key leaves room, two at least, with the one that sorts."""
    room = max((width - max(longest + 1, _KEY)) // _COLUMN, 2)
    columns = list(range(min(room, len(COLUMNS))))
    return columns if sorted_by in columns else [*columns[:-1], sorted_by]


def _fit(text: str, width: int) -> str:
    """``text`` cut or padded to a number of characters."""
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def _cut(line: Line, width: int) -> Line:
    found: Line = []
    for text, style in line:
        if width <= 0:
            break
        found.append((text[:width], style))
        width -= len(text)
    return found
