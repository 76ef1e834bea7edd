"""The result of an audit as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowstream.audit.equation import equation, summed, visible
from flowstream.audit.result import Terms
from flowstream.audit.texts import amount_text, utc_text
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.audit import Amount, Chain, ChainRun, Interface, Result, Run

RUNS_IN_FULL: Final = 20
"""More runs than these are summed in one table."""
CHAINS_IN_FULL: Final = 20
"""Of more chains than these only those that do not hold are printed, and no more in full."""
_CHAIN_TERMS: Final = {
    "packets seen": "seen",
    "published": "flows",
    "no flow": "no_flow",
    "lost": "losses",
    "in doubt": "in_doubt",
    "in the spool": "spool",
    "difference": "difference",
}
"""Columns of chains, and their terms."""


def show(result: Result, stream: TextIO) -> None:
    """Print every run: its equation per interface, its topics, its verdict.

    Of more than ``RUNS_IN_FULL`` runs only the first of those that do not hold are
    printed so, the others of them as text, and the equation of all in one table.
    Colours and lines are for terminals that can show them; elsewhere it is plain
    ASCII text.
    """
    plain = not stream.isatty() or "utf" not in (stream.encoding or "").lower()
    console = Console(
        file=stream,
        highlight=False,
        # Without a terminal there is no width to keep to, and nothing may be cut off.
        width=None if stream.isatty() else 1_000,
    )
    lines = box.ASCII2 if plain else box.ROUNDED
    many = len(result.runs) > RUNS_IN_FULL
    shown = [run for run in result.runs if run.problems] if many else result.runs
    for number, run in enumerate(shown):
        _heading(console, run)
        if number < RUNS_IN_FULL:
            console.print(_equation(run.interfaces, lines))
            console.print(_sequences(run, lines))
        _verdict(console, run)
    if many:
        _all(console, result, failed=len(shown), lines=lines)
    _chains(console, result.chains, lines)
    for warning in result.warnings:
        console.print(f"[yellow]warning:[/] {_text(warning)}", soft_wrap=True)
    console.print(
        "[bold green]Every packet is accounted for.[/]"
        if result.holds
        else "[bold red]Not every packet is accounted for.[/]"
    )


def _heading(console: Console, run: Run) -> None:
    console.print(
        f"[bold]Run of {utc_text(run.agent_epoch)}[/] on host {_text(run.host or '?')} "
        f"({run.host_id}), agent_epoch {run.agent_epoch}",
        soft_wrap=True,
    )


def _all(console: Console, result: Result, *, failed: int, lines: box.Box) -> None:
    """Print the equation summed over all runs."""
    table = _table(lines)
    _add_terms(table, "all", summed(each for run in result.runs for each in run.interfaces))
    console.print(table)
    console.print(
        f"{len(result.runs):,} runs: {len(result.runs) - failed:,} hold, "
        f"{failed:,} do not; --json has every run\n"
    )


def _equation(interfaces: Sequence[Interface], lines: box.Box) -> Table:
    """One row per interface and term; the difference is the last."""
    table = _table(lines)
    for interface in interfaces:
        _add_terms(table, interface.label, equation(interface))
        table.add_section()
    return table


def _table(lines: box.Box) -> Table:
    table = Table(box=lines)
    table.add_column("interface", overflow="fold")
    table.add_column("term", overflow="fold")
    table.add_column("packets", justify="right")
    table.add_column("frame octets", justify="right")
    return table


def _add_terms(table: Table, label: str, terms: Mapping[str, Amount]) -> None:
    """Add a row per visible term."""
    first = _text(label)
    for term, amount in visible(terms).items():
        table.add_row(first, _text(term), f"{amount.packets:,}", f"{amount.l2_bytes:,}")
        first = ""


def _sequences(run: Run, lines: box.Box) -> Table:
    table = Table(box=lines)
    table.add_column("topic", overflow="fold")
    for name in (
        "records",
        "seq",
        "missing",
        "lost",
        "in doubt",
        "spool",
        "duplicates",
        "partitions",
    ):
        table.add_column(name, justify="right")
    for topic in run.topics:
        table.add_row(
            _text(topic.topic),
            f"{topic.records:,}",
            "" if topic.last_seq is None else f"{topic.first_seq}-{topic.last_seq}",
            f"{topic.missing:,}",
            f"{topic.failed:,}",
            f"{topic.in_doubt:,}",
            f"{topic.waiting:,}",
            f"{topic.duplicates:,}",
            f"{topic.partitions}",
        )
    return table


def _chains(console: Console, chains: Sequence[Chain], lines: box.Box) -> None:
    """Print the runs of each chain in order, their equations, the sums, the verdict."""
    if not chains:
        return
    many = len(chains) > CHAINS_IN_FULL
    shown = [chain for chain in chains if chain.problems] if many else chains
    console.print("[bold]Chains of runs, each of which took over the link of the one before[/]")
    if shown:
        table = Table(box=lines)
        table.add_column("interface", overflow="fold")
        table.add_column("run", overflow="fold")
        for name in ("link", *_CHAIN_TERMS):
            table.add_column(name, justify="right")
        for chain in shown[:CHAINS_IN_FULL]:
            _add_chain(table, chain)
        console.print(table)
    for chain in shown:
        _chain_verdict(console, chain)
    if many:
        failed = sum(bool(chain.problems) for chain in chains)
        console.print(
            f"{len(chains):,} chains: {len(chains) - failed:,} hold, {failed:,} do not; "
            "--json has every chain"
        )
    console.print()


def _add_chain(table: Table, chain: Chain) -> None:
    """Add a row for each run of a chain, and the sums.

    Of a long one only the first run, the last, and those in between that fail have rows.
    """
    runs = chain.runs
    failing = [run for run in runs[1:-1] if not (run.holds and run.gapless)][:RUNS_IN_FULL]
    shown = runs if len(runs) <= RUNS_IN_FULL else [runs[0], *failing, runs[-1]]
    label = _chain_label(chain)
    for run in shown:
        if run is shown[-1] and len(shown) < len(runs):
            table.add_row("", f"{len(runs) - len(shown):,} more")
        table.add_row(label, utc_text(run.agent_epoch), _link(run, chain), *_packets(run.terms))
        label = ""
    table.add_row("", f"all {len(runs):,}", "", *_packets(chain.terms))
    table.add_section()


def _chain_label(chain: Chain) -> str:
    return _text(f"{chain.label} of {chain.host or chain.host_id}")


def _link(run: ChainRun, chain: Chain) -> str:
    """How a run follows on the one before."""
    if not run.counters:
        return "missing" if chain.problems else "deleted"
    if run.gapless is None:
        return "first"
    return "gapless" if run.gapless else "not proven"


def _packets(terms: Terms) -> list[str]:
    return [f"{getattr(terms, name).packets:,}" for name in _CHAIN_TERMS.values()]


def _chain_verdict(console: Console, chain: Chain) -> None:
    label = _chain_label(chain)
    for note in chain.notes:
        console.print(f"[yellow]note:[/] {label}: {_text(note)}", soft_wrap=True)
    for problem in chain.problems:
        console.print(f"[red]does not hold:[/] {label}: {_text(problem)}", soft_wrap=True)
    if not chain.problems:
        runs = counted(sum(run.counters for run in chain.runs), "run")
        seen = amount_text(chain.terms.seen)
        console.print(
            f"[green]holds:[/] {label}: {runs} without a gap, {seen} seen, {_rest(chain.terms)}",
            soft_wrap=True,
        )


def _verdict(console: Console, run: Run) -> None:
    for note in run.notes:
        console.print(f"[yellow]note:[/] {_text(note)}", soft_wrap=True)
    for problem in run.problems:
        console.print(f"[red]does not hold:[/] {_text(problem)}", soft_wrap=True)
    if not run.problems:
        terms = Terms.total(interface.terms for interface in run.interfaces)
        # A packet that the host forwards is seen twice.
        places = len(run.interfaces)
        over = f" over {places:,} interfaces and directions" if places > 1 else ""
        console.print(f"[green]holds:[/] {amount_text(terms.seen)} seen{over}, {_rest(terms)}")
    console.print()


def _rest(terms: Terms) -> str:
    """The difference of what holds: of records in doubt, and of those that wait."""
    if terms.in_doubt.packets:
        return f"{counted(terms.in_doubt.packets, 'packet')} in doubt"
    if terms.difference.packets:
        return f"{counted(terms.difference.packets, 'packet')} in the spool"
    return "difference 0"


def _text(text: str) -> str:
    """Show text out of a record in printable ASCII, whatever it contains."""
    return escape(
        "".join(
            char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text
        )
    )
