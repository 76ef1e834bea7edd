"""Interfaces that come and go in a chain of runs with --pin, also while there is no sink."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audit
from support.chains import closed, directory, generations, sums
from support.following import PACKETS, Link, Site
from support.net import namespace
from support.traffic import wait_until

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.kernel.generation import BOOKS, SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHURNED = 11


class Host:
    """Agents with --pin, one after the other, on the interfaces ``far*`` of a site."""

    def __init__(self, site: Site, pins: Path) -> None:
        self.site, self.pins, self.sent = site, pins, 0

    def agent(self, url: str, pattern: str = "far*") -> Agent:
        """Start the next agent."""
        where = ("-i", pattern, "--netns", self.site.there.name, "--sink", url)
        return Agent(*where, "--pin", str(self.pins), "--interval", 0.2)

    def create(self, agent: Agent, *, index: int | None = None) -> Link:
        """Create an interface, and send packets to it once it is attached."""
        link = self.site.create(index=index)
        saw(agent, "attached", link)
        self.send(link)
        return link

    def send(self, link: Link) -> None:
        """Send packets that count."""
        before = link.arrived
        link.send()
        self.sent += link.arrived - before

    def holds(self, *links: Link) -> bool:
        """Whether one run has pins, of these links and no others."""
        codes = [AttachmentKey(each.index).code for each in links]
        own = {f"{kind}-{code}" for kind in ("link", "counters") for code in codes}
        found = []
        for name in generations(self.pins):
            # An earlier run's are being removed.
            with contextlib.suppress(FileNotFoundError):
                found.append({each.name for each in (self.pins / name).iterdir()})
        return found == [{*SHARED, BOOKS, *own}]

    def settle(self, url: str) -> dict[str, int]:
        """End the chain by an agent that observes nothing; return the sums over all runs."""
        with self.agent(url, "no-such-*") as agent:
            agent.publishing()
            assert wait_until(lambda: len(generations(self.pins)) == 1, 120), agent.output()
            agent.stop()
        status, result = audit(url)
        assert (status, result["holds"]) == (0, True), result
        assert all(each["final"] for run in result["runs"] for each in run["interfaces"])
        return sums(result["runs"])


@pytest.fixture
def host(bpffs: Path) -> Iterator[Host]:
    """A site without devices, and a directory for pins."""
    with (
        namespace() as here,
        namespace() as there,
        directory(bpffs, "following") as pins,
    ):
        yield Host(Site(here, there), pins)


def saw(agent: Agent, event: str, link: Link) -> None:
    """Wait for a log record about an interface."""
    name = link.receiver.name
    found = wait_until(lambda: name in [each["interface"] for each in agent.logs(event)], 60)
    assert found, agent.output()


def test_interfaces_are_followed_before_the_broker_is_there(host, broker_factory):
    broker = broker_factory()
    first = host.site.create()
    with host.agent(broker.url) as agent:
        agent.publishing()
        host.send(first)
        agent.stop()
    broker.stop()
    with host.agent(broker.url) as agent:
        second = host.create(agent)
        host.send(first)
        first.delete()
        saw(agent, "interface_gone", first)
        agent.stop(status=1)
        assert not agent.logs("publishing")
    with host.agent(broker.url) as agent:
        third = host.create(agent)
        host.send(second)
        second.delete()
        saw(agent, "interface_gone", second)
        broker.start()
        agent.publishing()
        closed(agent, 2)
        host.send(third)
        agent.stop()
    found = host.settle(broker.url)
    assert found == {"seen": host.sent, "published": host.sent, "lost": 0, "killed": 0}
    assert host.sent >= 6 * PACKETS


def test_pins_of_interfaces_that_went_do_not_pile_up(host, recording_url):
    """They come and go in a run that ends in order, in one that is killed, and between runs."""
    stays = host.site.create()
    with host.agent(recording_url) as agent:
        agent.publishing()
        gone = []
        for _ in range(CHURNED):
            gone.append(link := host.create(agent))
            link.delete()
        for link in gone:
            saw(agent, "interface_gone", link)
        assert wait_until(lambda: host.holds(stays), 60)
        between = host.create(agent)
        agent.stop()
    host.send(stays)
    host.send(between)
    between.delete()
    # Another interface, which has the index of one that an earlier run observed.
    between = host.site.create(index=between.index)
    with host.agent(recording_url) as agent:
        closed(agent)
        host.send(between)
        link = host.create(agent)
        link.delete()
        saw(agent, "interface_gone", link)
        assert wait_until(lambda: host.holds(stays, between), 60)
        agent.signal(signal.SIGKILL)
        agent.wait()
    host.send(stays)
    host.send(between)
    between.delete()
    between = host.site.create(index=between.index)
    with host.agent(recording_url) as agent:
        closed(agent)
        host.send(between)
        assert wait_until(lambda: host.holds(stays, between), 60)
        agent.stop()
    found = host.settle(recording_url)
    assert (found["seen"], found["lost"]) == (host.sent, 0)
    # Of what was in doubt when the agent was killed, some may have arrived.
    assert 0 <= host.sent - found["published"] <= found["killed"]
