"""Three brokers that are controllers, too: topics have three replicas, of which two must write."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient

from broker import Broker, free_ports, java

if TYPE_CHECKING:
    from collections.abc import Iterable

NODES: Final = 3
_PROPERTIES: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # A follower that is away leaves the in-sync replicas soon.
    "replica.lag.time.max.ms": "2000",
    # Only when a test asks for it.
    "auto.leader.rebalance.enable": "false",
}


class Cluster:
    """Nodes 1 to 3, which run once constructed; tests may stop and start them."""

    def __init__(self) -> None:
        controllers = free_ports(NODES)
        self._stack = ExitStack()
        self.nodes: dict[int, Broker] = {}
        try:
            for n in range(1, NODES + 1):
                node = Broker(_PROPERTIES, node=n, controllers=controllers)
                self.nodes[n] = self._stack.enter_context(node)
            self.start(self.nodes)
        except BaseException:
            self.close()
            raise
        self.address = ",".join(node.address for node in self.nodes.values())
        self.url = f"kafka://{self.address}"

    def start(self, numbers: Iterable[int]) -> None:
        """Start these nodes; returns when they listen."""
        started = [self.nodes[n] for n in numbers]
        for node in started:
            node.launch()
        for node in started:
            node.await_start()

    def leaders(self, topic: str) -> list[int]:
        """Leader of each partition of a topic."""
        found = self._admin().list_topics(topic, timeout=30).topics[topic].partitions
        return [found[number].leader for number in sorted(found)]

    def elect_preferred(self) -> None:
        """Make the first replica of each partition its leader again."""
        admin = self._admin()
        admin.elect_leaders(ElectionType.PREFERRED).result(30)

    def controller(self) -> int:
        """The active controller's node."""
        address = ("--bootstrap-server", self._running())
        command = java("org.apache.kafka.tools.MetadataQuorumCommand", *address, "describe")
        done = subprocess.run(
            [*command, "--status"], check=True, capture_output=True, text=True, timeout=60
        )
        fields = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
        return int(fields["LeaderId"])

    def close(self) -> None:
        """End them and remove their directories."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _running(self) -> str:
        return ",".join(node.address for node in self.nodes.values() if node.running)

    def _admin(self) -> AdminClient:
        """A client for one use: librdkafka's waits for a broker that is gone."""
        return AdminClient({"bootstrap.servers": self._running(), "log_level": 0})
