"""The sections of the loss equation and of the runs, as the audit has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.audit.equation import (
    DIFFERENCE,
    IN_DOUBT,
    IN_SPOOL,
    LOST,
    NO_FLOW,
    PUBLISHED,
    SEEN,
    summed,
    visible,
)
from flowstream.report import figures
from flowstream.report.sections import Section, Table
from flowstream.report.wording import count_text, time_text
from flowstream.wording import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.audit import Amount, Interface, Result, Run
    from flowstream.report.runs import Ends

ROWS: Final = 200
"""Runs and interfaces in the tables; flowstream audit --json has all."""
_MESSAGES: Final = 20
_PLACES: Final = 5


def loss_equation(result: Result) -> Section:
    """The equation summed over all runs, interfaces and directions: a waterfall."""
    interfaces = [each for run in result.runs for each in run.interfaces]
    terms = visible(summed(interfaces))
    falling = [
        *(SEEN, *(term for term in terms if term.startswith(NO_FLOW)), PUBLISHED),
        *(*(term for term in terms if term.startswith(LOST)), DIFFERENCE),
    ]
    explaining = [term for term in terms if term.startswith(IN_DOUBT) or term == IN_SPOOL]
    rows = [
        (term, count_text(terms[term].packets), count_text(terms[term].l2_bytes))
        for term in [*falling, *explaining]
    ]
    notes = [
        (
            f"Sum of {counted(len(interfaces), 'row')} of the table of interfaces and directions: "
            "a packet that a host forwards is seen once on its way in and once on its way out. "
            "The numbers are those of flowstream audit."
        )
    ]
    if explaining:
        notes.append(
            "What is in doubt or in the spool is no part of the sum: it may be published or not, "
            "and explains the difference."
        )
    return Section(
        "equation",
        "Loss equation",
        notes,
        [Table("Packets and octets of frames by term", ("Term", "Packets", "Octets"), rows)],
        figures.waterfall(falling, [terms[term].packets for term in falling]),
        "Waterfall from the packets seen to the difference",
    )


def problems(result: Result) -> list[str]:
    """What does not hold: lines about runs and chains, the first ones."""
    lines = [
        *(
            f"{_host(run)}, run of {time_text(run.agent_epoch)}: {line}"
            for run in result.runs
            for line in run.problems
        ),
        *(
            f"{chain.label} of {chain.host or chain.host_id}: {line}"
            for chain in result.chains
            for line in chain.problems
        ),
    ]
    return _first(lines)


def notes(result: Result) -> list[str]:
    """Warnings, and notes about runs and chains, the first ones."""
    lines = [
        *(f"warning: {line}" for line in result.warnings),
        *(f"{_host(run)}: {line}" for run in result.runs for line in run.notes),
        *(f"{chain.label}: {line}" for chain in result.chains for line in chain.notes),
    ]
    return _first(list(dict.fromkeys(lines)))


def _first(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _MESSAGES
    return [*lines[:_MESSAGES], *([f"{more:,} more: see flowstream audit"] if more > 0 else [])]


def runs(result: Result, ends: Ends) -> Section:
    """The runs with their ends, and the equation of each interface and direction."""
    run_rows = [
        (
            _host(run),
            time_text(run.agent_epoch),
            time_text(last) if (last := ends.last(run).time_unix_ns) else "none",
            ends.text(run),
            "no" if run.problems else "yes",
            str(run.agent_epoch),
        )
        for run in result.runs
    ]
    places = [(run, each) for run in result.runs for each in run.interfaces]
    place_rows = [(_host(run), time_text(run.agent_epoch), *_row(each)) for run, each in places]
    return Section(
        "runs",
        "Runs",
        [counted(len(result.runs), "run") + " of agents, the oldest first. Times are UTC."],
        [
            _cut("Runs", _RUN_COLUMNS, run_rows, texts=6),
            _cut("Interfaces and directions, in packets", _PLACE_COLUMNS, place_rows, texts=3),
        ],
    )


_RUN_COLUMNS: Final = ("Host", "Begin", "Last counters", "End", "Holds", "agent_epoch")
_PLACE_COLUMNS: Final = (
    *("Host", "Run", "Interface and direction", "Seen", "Published", "No flow", "Lost"),
    *("In doubt", "In the spool", "Difference"),
)


def _row(interface: Interface) -> tuple[str, ...]:
    terms = interface.terms
    amounts: Sequence[Amount] = (
        *(terms.seen, terms.flows, terms.no_flow, terms.losses, terms.in_doubt, terms.spool),
        terms.difference,
    )
    return interface.label, *(count_text(each.packets) for each in amounts)


def _cut(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int
) -> Table:
    more = len(rows) - ROWS
    cut = f", the first {ROWS} of {len(rows):,}" if more > 0 else ""
    return Table(caption + cut, columns, rows[:ROWS], texts)


def _host(run: Run) -> str:
    return run.host or run.host_id


def hosts(result: Result) -> list[str]:
    """Names of the hosts, each once."""
    return list(dict.fromkeys(_host(run) for run in result.runs))


def seen_at(result: Result, direction: int) -> str:
    """Where traffic of a direction was seen, and what is counted how often."""
    names = dict.fromkeys(_labels(result, direction))
    verb = "sent" if direction else "received"
    names_text = listed(list(names), _PLACES)
    text = f"What {names_text} {verb}."
    if len(hosts(result)) > 1:
        text += " A packet that passes several of these hosts counts at each."
    return text


def _labels(result: Result, direction: int) -> Iterator[str]:
    for run in result.runs:
        for each in run.interfaces:
            if each.flow_direction == direction:
                place = f" (netns {each.netns})" if each.netns else ""
                yield f"{each.if_name or f'ifindex {each.if_index}'}{place} of {_host(run)}"
