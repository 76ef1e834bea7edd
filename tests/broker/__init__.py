"""A real Kafka broker for tests: one node, KRaft, loopback, its own ports and directory.

``broker.secure`` has one with TLS, SASL and access control, ``broker.cluster`` three.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flowstream.kafka.settings import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HERE = Path(__file__).parent
LIBS = HERE.parents[1] / ".cache" / "kafka" / "libs"
CLUSTER_ID = "Zmxvd3N0cmVhbS10ZXN0cw"
START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0

# The controller lets a killed broker back in when its session is over: keep it short.
# Messages of tests are as old as their timestamps say: no broker's limit may delete them.
_PROPERTIES = """\
process.roles={roles}
node.id={node}
controller.quorum.voters={voters}
listeners={listeners}{controller_listener}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
"""


def java(*args: str) -> list[str]:
    """Command line that runs a class of Kafka; missing jars are fetched."""
    subprocess.run([HERE / "fetch.sh"], check=True)
    # For a fast start, not for throughput: only the first compiler, one collector thread.
    options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j2.level=warn"]
    return ["java", *options, "-cp", f"{LIBS}/*", *args]


def dump_log(segment: Path) -> str:
    """Output of Kafka's own tool for a log segment, with the batches' records."""
    arguments = ("--deep-iteration", "--print-data-log", "--files", str(segment))
    command = java("kafka.tools.DumpLogSegments", *arguments)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


class Broker:
    """A broker that runs once constructed; tests may stop and start it.

    ``properties`` are further lines of server.properties, by name; ``listeners`` are
    protocols by name of further listeners; ``scram`` are mechanism, user and password
    of its users. Node 1 of a cluster is its controller; others ``join`` it, with the
    number ``node``. ``controllers`` are instead the ports of the controllers that all
    nodes are; such a node has to be started, since it listens only once others do.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        *,
        listeners: Mapping[str, str] | None = None,
        scram: Iterable[tuple[str, str, str]] = (),
        join: Broker | None = None,
        node: int = 1,
        controllers: Sequence[int] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="flowstream-broker-"))
        self.log_dir = self.directory / "data"
        protocols = {"PLAINTEXT": "PLAINTEXT"} | dict(listeners or {})
        spare, *ports = free_ports(1 + len(protocols))
        voters = controllers or (join.controller if join else spare,)
        self.controller: int = voters[0] if join else voters[node - 1]
        self.ports = dict(zip(protocols, ports, strict=True))
        self.port = self.ports["PLAINTEXT"]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"kafka://{self.address}"
        self.cluster = ClientSettings((self.address,))
        self._scram = tuple(scram)
        self._properties = self.directory / "server.properties"
        text = _PROPERTIES.format(
            roles="broker" if join else "broker,controller",
            node=node,
            voters=",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(voters, 1)),
            controller_listener="" if join else f",CONTROLLER://127.0.0.1:{self.controller}",
            data=self.log_dir,
            listeners=",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()),
            protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        )
        text += "".join(f"{name}={value}\n" for name, value in (properties or {}).items())
        self._properties.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._format()
            if not controllers:
                self.start()
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on the same ports and directory as ever; returns when it listens."""
        self.launch()
        self.await_start()

    def launch(self) -> None:
        """Start, without waiting until it listens."""
        assert self._process is None
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                java("kafka.Kafka", str(self._properties)), stdout=output, stderr=output
            )

    def await_start(self) -> None:
        """Wait until it listens."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker did not start:\n{self.output()[-4000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it by this signal and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop by this signal, then start."""
        self.stop(how)
        self.start()

    def output(self) -> str:
        """What the broker has written to its standard streams."""
        return (self.directory / "output").read_text(errors="replace")

    def close(self) -> None:
        """End it and remove its directory."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _format(self) -> None:
        arguments = ["format", "-t", CLUSTER_ID, "-c", str(self._properties)]
        for mechanism, user, password in self._scram:
            arguments += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        command = java("kafka.tools.StorageTool", *arguments)
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"the broker's directory was not made:\n{done.stdout}{done.stderr}")

    def _listens(self) -> bool:
        try:
            for port in self.ports.values():
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True


def free_ports(n: int) -> list[int]:
    """Ports below the ephemeral range: no client takes one while the broker is down."""
    found: list[int] = []
    for port in random.sample(range(20011, 30011), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == n:
            return found
    raise RuntimeError("no free ports")
