"""Chains of runs: agents with --pin, one after the other, and the sums over all of them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowstream.kernel.bpffs import Owner
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.removal import remove_all
from flowstream.layouts.constants import EndReason
from support.agent import Agent, audit, carried, on, quiet
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Wire

CHAIN_GOES_ON = "the chain goes on"


class Chain:
    """Agents on the receiver of a wire, which leave their programs to the next one."""

    def __init__(self, wire: Wire, url: str, pins: Path, *options: str | float) -> None:
        self.sender, self.receiver = wire
        self.url, self.pins = url, pins
        self._options = options
        self._before = self.receiver.statistic("rx_packets")

    def agent(self, *options: str | float) -> Agent:
        """Start the next agent."""
        return self._agent(*on(self.receiver), *options)

    def _agent(self, *options: str | float) -> Agent:
        shared = ("--sink", self.url, "--pin", str(self.pins), "--interval", 0.2)
        return Agent(*shared, *self._options, *options)

    @property
    def recording(self) -> Path:
        """The directory of its recording."""
        return Path(self.url.removeprefix("file:"))

    @property
    def arrived(self) -> int:
        """Packets that the interface received so far."""
        return self.receiver.statistic("rx_packets") - self._before

    def quiet(self) -> int:
        """Wait until nothing is under way; return the packets that arrived."""
        return quiet(self.receiver) - self._before

    def runs(self) -> list[dict[str, Any]]:
        """Runs of the chain, the oldest first; all but the last are closed and hold."""
        _, result = audit(self.url)
        runs: list[dict[str, Any]] = sorted(result["runs"], key=lambda run: run["agent_epoch"])
        assert [run["problems"] for run in runs[:-1]] == [[]] * (len(runs) - 1)
        assert [CHAIN_GOES_ON in each for each in runs[-1]["problems"]] == [True]
        assert all(each["final"] for run in runs[:-1] for each in run["interfaces"])
        return runs

    def close(self) -> list[dict[str, Any]]:
        """End the chain by an agent that observes nothing; return its runs, all of which hold."""
        options = [*on(self.receiver)]
        options[options.index("-i") + 1] = "no-such-*"
        with self._agent(*options) as agent:
            agent.publishing()
            assert wait_until(lambda: len(generations(self.pins)) == 1, 120), agent.output()
            agent.stop()
        status, result = audit(self.url)
        assert (status, result["holds"]) == (0, True), [run["problems"] for run in result["runs"]]
        return sorted(result["runs"], key=lambda run: run["agent_epoch"])


def closed(agent: Agent, runs: int = 1) -> None:
    """Wait until the agent has closed so many earlier runs."""
    assert wait_until(lambda: len(agent.logs("run_closed")) >= runs, 60), agent.output()


def generations(pins: Path) -> list[str]:
    """Runs that have pins."""
    return sorted(each.name for each in pins.iterdir())


def sums(runs: list[dict[str, Any]]) -> dict[str, int]:
    """Packets seen, published and in doubt over runs and their interfaces."""
    each = [interface for run in runs for interface in run["interfaces"]]
    return {
        "seen": sum(its["seen"]["packets"] for its in each),
        "published": sum(its["flows"]["packets"] for its in each),
        "lost": sum(loss["packets"] for its in each for loss in its["losses"].values()),
        "killed": sum(
            its["in_doubt"].get("agent_killed", {"packets": 0})["packets"] for its in each
        ),
    }


def published(url: str) -> int:
    """Packets in the flow records of all runs, without the audit."""
    return carried(url).total()


@contextmanager
def directory(bpffs: Path, name: str) -> Iterator[Path]:
    """A directory of pins that does not exist yet; what runs there at the end is detached."""
    place = bpffs / name
    try:
        yield place
    finally:
        with ExitStack() as stack:
            if place.exists():
                owner = Owner(place.stat().st_uid, place.stat().st_gid)
                pins = stack.enter_context(PinDirectory(str(place), owner))
                # At once: another test has the interface next.
                remove_all(pins, EndReason.FORCED)
