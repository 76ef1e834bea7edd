"""A small site with real traffic: a host that forwards, a server, an agent on each.

``client`` (10.1.0.1, 10.1.1.1) sends by ``edge``, which forwards from its interface wan to
lan, to ``server`` (10.2.0.1). The agents observe wan and lan, and the server's eth0, in both
directions, so they see every packet of a client and every answer three times, and what
``edge`` itself sends (from 10.1.254.1) twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.records import CountersRecord
from support import net
from support.agent import FLOWSTREAM, Agent, carried, records_of
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker import Broker

CLIENTS = ("10.1.0.1", "10.1.1.1")
EDGE = "10.1.254.1"
SERVER, PORT = "10.2.0.1", 5353
ANSWERED = 40_001
"""Port of a client that takes answers."""

# Nobody has it: its neighbour entry names the peer, so that no ARP is sent.
_ROUTER = "10.255.0.1"
_SEND = """
import json, socket, sys
for source, port, destination, count, size in json.loads(sys.argv[1]):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sender.bind((source, port))
    for _ in range(count):
        sender.sendto(bytes(size), tuple(destination))
"""
# Receives on a port of every address until its standard input is closed: a closed port
# would answer by ICMP.
_RECEIVE = """
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
receiver.bind(("", int(sys.argv[1])))
print(flush=True)
sys.stdin.read()
"""
# A host of its own name and machine id, in its own UTS and mount namespaces.
_HOST = """
hostname "$1" && mount --bind "$2" /etc/machine-id && shift 2 && exec "$@"
"""


class Burst(NamedTuple):
    """Datagrams of one flow."""

    source: str
    port: int
    to: tuple[str, int]
    datagrams: int
    size: int
    """Octets of payload."""


@contextlib.contextmanager
def network() -> Iterator[tuple[net.Namespace, net.Namespace, net.Namespace]]:
    """Make the namespaces of client, edge and server, with their addresses and routes."""
    with contextlib.ExitStack() as stack:
        client, edge, server = (stack.enter_context(net.namespace()) for _ in range(3))
        stack.enter_context(net.veth_pair(client, edge, names=("eth0", "wan")))
        stack.enter_context(net.veth_pair(edge, server, names=("lan", "eth0")))
        edge.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for address in CLIENTS:
            client.run("ip", "address", "add", f"{address}/32", "dev", "eth0")
        edge.run("ip", "address", "add", f"{EDGE}/32", "dev", "lan")
        server.run("ip", "address", "add", f"{SERVER}/32", "dev", "eth0")
        for near, far, device, peer, destination in (
            (client, edge, "eth0", "wan", "10.2.0.0/16"),
            (edge, client, "wan", "eth0", "10.1.0.0/16"),
            (edge, server, "lan", "eth0", "10.2.0.0/16"),
            (server, edge, "eth0", "lan", "10.1.0.0/16"),
        ):
            mac = far.run("cat", f"/sys/class/net/{peer}/address").strip()
            way = ("via", _ROUTER, "dev", device, "onlink")
            near.run("ip", "link", "set", device, "arp", "on")
            near.run("ip", "neigh", "add", _ROUTER, "lladdr", mac, "dev", device)
            near.run("ip", "route", "add", destination, *way)
        yield client, edge, server


class Site:
    """The three hosts; ``edge`` and ``server`` have agents once they are started."""

    def __init__(self, stack: contextlib.ExitStack, broker: Broker) -> None:
        self.url = broker.url
        self._stack = stack
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.client, self.edge, self.server = stack.enter_context(network())
        for host, port in ((self.server, PORT), (self.client, ANSWERED)):
            receiver = stack.enter_context(
                host.popen(
                    *(sys.executable, "-c", _RECEIVE, str(port)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert receiver.stdout is not None
            assert receiver.stdout.readline()

    def agent(self, host: str, *options: str | float) -> Agent:
        """Start the agent of ``edge`` or ``server`` and wait until it publishes."""
        machine_id = self._directory / f"{host}-id"
        machine_id.write_text(f"{host.encode().hex():0<32}\n")
        before = ("unshare", "--uts", "--mount", "sh", "-c", _HOST, "sh", host, str(machine_id))
        namespace = {"edge": self.edge, "server": self.server}[host]
        names = {"edge": ("wan", "lan"), "server": ("eth0",)}[host]
        interfaces = [option for name in names for option in ("-i", name)]
        to = ("--netns", namespace.name, "--sink", self.url, "--partitions", "3")
        period = ("--counters-period", "0.3", "--direction", "both")
        agent = Agent(*interfaces, *to, *period, *options, before=before)
        return self._stack.enter_context(agent).publishing()

    def send(self, *bursts: Burst) -> None:
        """Send datagrams, in their order, each from the host that has its source."""
        hosts = {EDGE: self.edge, SERVER: self.server}
        for source, several in itertools.groupby(bursts, lambda burst: burst.source):
            host = hosts.get(source, self.client)
            host.run(sys.executable, "-c", _SEND, json.dumps(list(several)))

    def published(self, packets: int) -> None:
        """Wait until flow records of so many packets are published."""
        assert wait_until(lambda: carried(self.url).total() == packets), carried(self.url)

    def counted(self, host: str, packets: int) -> None:
        """Wait until counters of ``host`` have so many packets, over interfaces and directions."""

        def seen() -> bool:
            found: Counter[tuple[int, AttachmentKey]] = Counter()
            for record in records_of(self.url, "flowstream.counters"):
                if isinstance(record, CountersRecord) and record.host == host:
                    # Counters of a run only grow.
                    key = record.agent_epoch, AttachmentKey.of_record(record)
                    found[key] = max(found[key], record.seen_packets)
            return found.total() == packets

        assert wait_until(seen)

    def parquet(self, stream: str, file: Path) -> None:
        """Write a topic to a file, as the cookbook does."""
        command = [*FLOWSTREAM, "cat", self.url, "--topic", f"flowstream.{stream}"]
        subprocess.run([*command, "--format", "parquet", "--output", file], check=True, timeout=60)

    def again(self, stream: str) -> None:
        """Publish a topic's records a second time, as a producer does that got no answer."""
        to = self._directory / f"again-{stream}"
        topic = f"flowstream.{stream}"
        for command in (
            ("record", self.url, "--topic", topic, "--to", to),
            ("replay", to, "--to", self.url),
        ):
            subprocess.run([*FLOWSTREAM, *command], check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def site(broker: Broker) -> Iterator[Site]:
    """Make the hosts; they are removed at the end."""
    with contextlib.ExitStack() as stack:
        yield Site(stack, broker)
