"""An agent that follows the interfaces of namespaces, on real devices that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import structlog.testing

from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.config.run import load
from flowstream.following.attaching import Attaching
from flowstream.following.follower import Follower
from flowstream.following.places import Place
from flowstream.host.links import LinkMonitor
from flowstream.host.namespaces import Namespace as Observed
from flowstream.host.privileges import find_user
from flowstream.host.selection import Selection
from support.agent import delivered
from support.net import LARGEST_MTU, OFFLOADS_OFF, Interface, interface
from support.rig import Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from flowstream.kernel.target import Target
    from flowstream.pipeline.probe import Attachment
    from support.net import Namespace

PACKETS = 5_003
FLOWS = 101


class Site:
    """Senders ``near*`` in one namespace, and what they send to in another: ``far*``."""

    def __init__(self, here: Namespace, there: Namespace, first: int = 0) -> None:
        self.here, self.there = here, there
        self._numbers = itertools.count(first)

    def create(self, name: str | None = None, *, index: int | None = None) -> Link:
        """Create a pair; the observed end has a name and an index as wished."""
        number = next(self._numbers)
        near, far = f"near{number}", name or f"far{number}"
        wish = ["index", str(index)] if index else []
        self.there.run(
            *("ip", "link", "add", far, *wish, "numtxqueues", "1", "numrxqueues", "1"),
            *("type", "veth", "peer", "name", near, "numtxqueues", "1", "numrxqueues", "1"),
            *("netns", self.here.path.as_posix()),
        )
        for place, each in ((self.here, near), (self.there, far)):
            place.run("ethtool", "-K", each, *OFFLOADS_OFF)
            place.run("ip", "link", "set", each, "mtu", str(LARGEST_MTU), "arp", "off")
            place.run("ip", "link", "set", each, "multicast", "off", "up")
        return Link(self.here, near, self.there, far)


class Link:
    """One pair: ``sender``, ``receiver``, and how many packets have arrived."""

    def __init__(self, here: Namespace, near: str, there: Namespace, far: str) -> None:
        self.sender = interface(here, near)
        self.receiver = interface(there, far)
        self.arrived = 0

    @property
    def index(self) -> int:
        return self.receiver.index

    def send(self, packets: int = PACKETS) -> None:
        """Send packets, and wait until they have arrived."""
        self.arrived += delivered(self.sender, self.receiver, packets, "-f", FLOWS)

    def set(self, *options: str) -> None:
        """Change the observed end by ``ip link set``."""
        self.receiver.namespace.run("ip", "link", "set", self.receiver.name, *options)

    def rename(self, name: str) -> None:
        """Give the observed end another name."""
        self.set("name", name)
        self.receiver = Interface(self.receiver.namespace, name, self.index)

    def move(self, to: Namespace) -> None:
        """Move the observed end to another namespace, where it is up again."""
        self.set("netns", to.name)
        self.receiver = interface(to, self.receiver.name)
        self.set("up", "arp", "off", "multicast", "off")

    def delete(self) -> None:
        """Delete both ends."""
        self.receiver.namespace.run("ip", "link", "delete", self.receiver.name)


class FollowingRig(Rig):
    """An agent that follows the interfaces that match ``pattern`` in these namespaces."""

    def __init__(
        self,
        url: str,
        labels: Sequence[str],
        pattern: str = "far*",
        before_attach: Callable[[Target], object] = lambda _: None,
        program: str = "flow",
        **options: Any,
    ) -> None:
        super().__init__(url, program, **options)
        self.before_attach = before_attach
        self._process = Process()
        self.observed = [Observed.open(label, number) for number, label in enumerate(labels)]
        self._attacher = Attacher(
            self._process,
            self.probe,
            find_user("nobody"),
            [each.fd for each in self.observed if each.fd is not None],
        )
        places = [Place(each, LinkMonitor(each), alone=len(labels) == 1) for each in self.observed]
        config = load({"interfaces": (pattern,), **options})
        self.attaching = Attaching(self, config.attach_modes, 1, self.count_failed)
        self.failed = 0
        self.logs: Sequence[Any] = ()
        self.follower = Follower(
            self.agent,
            self.attaching,
            places,
            Selection([pattern]),
            period_s=1.0,
        )
        self.follower.begin(lambda: False, lambda: False)
        self.agent.accompany(self.follower)

    def attach(self, target: Target) -> Attachment:  # type: ignore[override]
        self.before_attach(target)
        return self._attacher.attach(target)

    def count_failed(self) -> None:
        self.failed += 1

    def events(self, event: str, interface: str | None = None) -> list[dict[str, Any]]:
        """Log records of one kind, perhaps of one interface."""
        return [
            each
            for each in self.logs
            if each["event"] == event and interface in (None, each.get("interface"))
        ]

    @contextlib.asynccontextmanager
    async def running(self, status: int = 0) -> AsyncIterator[asyncio.Future[int]]:
        try:
            async with super().running(status) as running:
                yield running
        finally:
            self.follower.close()
            self.agent.close()
            self._process.close()


@contextlib.asynccontextmanager
async def following(
    url: str, labels: Sequence[str], status: int = 0, **options: Any
) -> AsyncIterator[FollowingRig]:
    """Run an agent that follows the interfaces of these namespaces; its log is complete.

    It must end with this exit ``status``.
    """
    with structlog.testing.capture_logs() as logs:
        rig = FollowingRig(url, labels, **options)
        rig.logs = logs
        async with rig.running(status):
            yield rig


async def until(true: Callable[[], object]) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
