"""The result of an audit as tables for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from flowstream.audit import Interface, Result, Run


def show(result: Result, stream: TextIO) -> None:
    """Print every run: its equation per interface, its topics, its verdict.

    Colours and lines are for terminals that can show them; elsewhere it is
    plain ASCII text.
    """
    plain = not stream.isatty() or "utf" not in (stream.encoding or "").lower()
    console = Console(
        file=stream,
        highlight=False,
        # Elsewhere there is no width to keep to, and nothing may be cut off.
        width=None if stream.isatty() else 1_000,
    )
    lines = box.ASCII2 if plain else box.ROUNDED
    for run in result.runs:
        began = datetime.fromtimestamp(run.agent_epoch // 10**9, UTC)
        console.print(
            f"[bold]Run of {began:%Y-%m-%d %H:%M:%S} UTC[/] on host {_text(run.host or '?')} "
            f"({run.host_id}), agent_epoch {run.agent_epoch}",
            soft_wrap=True,
        )
        console.print(_equation(run, lines))
        console.print(_sequences(run, lines))
        _verdict(console, run)
    for warning in result.warnings:
        console.print(f"[yellow]warning:[/] {_text(warning)}", soft_wrap=True)
    console.print(
        "[bold green]Every packet is accounted for.[/]"
        if result.holds
        else "[bold red]Not every packet is accounted for.[/]"
    )


def _equation(run: Run, lines: box.Box) -> Table:
    """One row per interface and term; the difference is the last."""
    table = Table(box=lines)
    table.add_column("interface", overflow="fold")
    table.add_column("packets that are", overflow="fold")
    table.add_column("packets", justify="right")
    table.add_column("frame octets", justify="right")
    for interface in run.interfaces:
        for row in _terms(interface):
            table.add_row(*row)
        table.add_section()
    return table


def _terms(interface: Interface) -> list[tuple[str, str, str, str]]:
    off = interface.difference
    terms = {
        "received (rx)": interface.rx,
        "in published flows": interface.flows,
        "non_ip": interface.non_ip,
        "malformed": interface.malformed,
        "sampled_out": interface.sampled_out,
        "counted": interface.counted,
        **{f"lost: {cause}": loss for cause, loss in interface.losses.items()},
        "difference": off,
    }
    name = _text(interface.name)
    return [
        (name if index == 0 else "", _text(term), f"{of.packets:,}", f"{of.bytes:,}")
        for index, (term, of) in enumerate(terms.items())
    ]


def _sequences(run: Run, lines: box.Box) -> Table:
    table = Table(box=lines)
    table.add_column("topic", overflow="fold")
    for name in ("records", "seq", "missing", "counted as lost", "duplicates", "partitions"):
        table.add_column(name, justify="right")
    for topic in run.topics:
        table.add_row(
            _text(topic.topic),
            f"{topic.records:,}",
            "" if topic.last_seq is None else f"{topic.first_seq}-{topic.last_seq}",
            f"{topic.missing:,}",
            f"{topic.failed:,}",
            f"{topic.duplicates:,}",
            f"{topic.partitions}",
        )
    return table


def _verdict(console: Console, run: Run) -> None:
    for note in run.notes:
        console.print(f"[yellow]note:[/] {_text(note)}", soft_wrap=True)
    for problem in run.problems:
        console.print(f"[red]does not hold:[/] {_text(problem)}", soft_wrap=True)
    if not run.problems:
        packets = sum(interface.rx.packets for interface in run.interfaces)
        octets = sum(interface.rx.bytes for interface in run.interfaces)
        console.print(
            f"[green]holds:[/] {packets:,} packets and {octets:,} octets received, difference 0"
        )
    console.print()


def _text(text: str) -> str:
    """Show text out of a record in printable ASCII, whatever it contains."""
    return escape(
        "".join(
            char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text
        )
    )
