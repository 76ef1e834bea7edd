"""Agents with a spool, and the audit of their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowstream.errors import FlowstreamError
from support.agent import audit, carried, on

if TYPE_CHECKING:
    from pathlib import Path

    from support.net import Interface

PACKETS = 100_003
FLOWS = 1_009


def spooling(
    device: Interface, url: str, spool: Path, *options: str | float
) -> tuple[str | float, ...]:
    """Options of an agent on this device with this spool."""
    shared = ("--spool", str(spool), "--interval", 0.2, "--format", "msgpack")
    return (*on(device), "--sink", url, *shared, *options)


def runs_of(url: str, *, killed: int = 0) -> list[dict[str, Any]]:
    """Runs in the topics, the oldest first; the first ``killed`` did not end cleanly.

    Nothing else may be wrong with their books.
    """
    _, result = audit(url)
    runs: list[dict[str, Any]] = sorted(result["runs"], key=lambda run: run["agent_epoch"])
    for run in runs[:killed]:
        (problem,) = run["problems"]
        assert "did not end cleanly" in problem
        assert "(difference +0 packets and +0 octets" in problem, problem
    assert [run["problems"] for run in runs[killed:]] == [[]] * len(runs[killed:])
    return runs


def losses_of(run: dict[str, Any]) -> dict[str, int]:
    """Packets lost by cause in a run with one interface; every packet has its place."""
    (interface,) = run["interfaces"]
    assert interface["difference"] == {"packets": 0, "l2_bytes": 0}
    losses = {cause: loss["packets"] for cause, loss in interface["losses"].items()}
    found = interface["flows"]["packets"] + sum(losses.values())
    assert found == interface["seen"]["packets"]
    return {cause: packets for cause, packets in losses.items() if packets}


def published(run: dict[str, Any]) -> int:
    """Packets in the flow records of a run with one interface; nothing of it is lost."""
    assert losses_of(run) == {}
    return int(run["interfaces"][0]["flows"]["packets"])


def in_spool(spool: Path) -> int:
    """Packets in the flow records of a spool, of one interface, that have no successor there."""
    try:
        return carried(f"file:{spool}").total()
    except FlowstreamError:  # a batch is being written, or no topic is there so far
        return 0


def segments(spool: Path) -> list[Path]:
    """Segments in which records wait."""
    return sorted(spool.glob("*/*.log"))
