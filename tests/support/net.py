"""Network namespaces and veth pairs that are removed after the test, also when it fails.

Devices have no addresses, no IPv6 autoconfiguration, no ARP and no offloads: they
carry only the packets that a test sends, unchanged.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowstream.host import namespaces as netns
from flowstream.host import stale_namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_MTU = 65535
OFFLOADS_OFF = (
    *("rx", "off", "tx", "off", "sg", "off", "tso", "off"),
    *("gso", "off", "gro", "off", "rxvlan", "off", "txvlan", "off"),
)

_numbers = itertools.count()
_NAMES = re.compile(r"flowstream-([0-9]+)-[0-9]+")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, known to ``ip netns`` by its name."""

    name: str

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        return Path("/run/netns", self.name)

    def argv(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs ``argv`` inside."""
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, *argv: str | Path, timeout: float = 60) -> str:
        """Run a program inside and return its output; a failure raises with its error text."""
        return _run(*self.argv(*argv), timeout=timeout)

    def popen(self, *argv: str | Path, **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside; the caller ends it."""
        return subprocess.Popen(self.argv(*argv), **options)

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Put the calling thread, and threads that it starts, inside for the block's time."""
        return netns.entered(self.name)


@dataclass(frozen=True, slots=True)
class Interface:
    """One device inside a namespace."""

    namespace: Namespace
    name: str
    index: int

    def statistic(self, name: str) -> int:
        """Return one counter of /sys/class/net/NAME/statistics, such as ``rx_packets``."""
        path = f"/sys/class/net/{self.name}/statistics/{name}"
        return int(self.namespace.run("cat", path))


class Wire(NamedTuple):
    """A veth pair: what the sender sends, the receiver's program sees."""

    sender: Interface
    receiver: Interface


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Create a namespace with loopback up and without the kernel's IPv6 traffic."""
    made = Namespace(f"flowstream-{os.getpid()}-{next(_numbers)}")
    _sweep_once()
    _run("ip", "netns", "add", made.name)
    try:
        made.run("sysctl", "-qw", *(f"net.ipv6.conf.{which}.disable_ipv6=1" for which in _CONFS))
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        _run("ip", "netns", "delete", made.name)


def own_network() -> None:
    """Move this process into a new network namespace, which ends with it; only "lo" is there.

    Raises ``OSError`` without the privilege.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(netns.CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _run("ip", "link", "set", "lo", "up")


@functools.cache
def _sweep_once() -> None:
    """Remove what a killed test session has left."""
    stale_namespaces.sweep(_NAMES)


@contextlib.contextmanager
def veth_pair(
    near: Namespace,
    far: Namespace | None = None,
    *,
    names: tuple[str, str] = ("near", "far"),
    mtu: int = LARGEST_MTU,
    queues: int = 1,
) -> Iterator[Wire]:
    """Create a veth pair between two namespaces (or within one), with both ends up.

    With one queue, packets arrive in the order in which they were sent. The
    names must be free. The pair is deleted at the end of the block.
    """
    far = far or near
    ends = tuple(zip((near, far), names, strict=True))
    shape = ["numtxqueues", str(queues), "numrxqueues", str(queues)]
    peer = ["peer", "name", names[1], "netns", far.path.as_posix(), *shape]
    near.run("ip", "link", "add", names[0], *shape, "type", "veth", *peer)
    try:
        for place, name in ends:
            place.run("ethtool", "-K", name, *OFFLOADS_OFF)
            place.run("ip", "link", "set", name, "mtu", str(mtu), "arp", "off")
            place.run("ip", "link", "set", name, "multicast", "off", "up")
        yield Wire(*(interface(place, name) for place, name in ends))
    finally:
        # A test may have deleted or moved the device: its namespace takes it along.
        subprocess.run(
            near.argv("ip", "link", "delete", names[0]), check=False, capture_output=True
        )


_CONFS = ("all", "default")


def interface(place: Namespace, name: str) -> Interface:
    """Return the device of this name in a namespace."""
    index = int(place.run("cat", f"/sys/class/net/{name}/ifindex"))
    return Interface(place, name, index)


def _run(*argv: str, timeout: float = 60) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {said}")
    return done.stdout
