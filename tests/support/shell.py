"""A host for the commands of documents: interfaces, a cluster, files, and a shell that finds them.

Documents name things that every reader has otherwise: eth0, a broker at 10.0.0.1, files below
/etc. A ``Host`` has stand-ins, and puts their names in place of those.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker import java
from broker.secure import AGENT, PASSWORDS, SecureBroker
from confluent_kafka.admin import AdminClient

from support.agent import FLOWSTREAM
from support.bpffs import mounted
from support.dashboards import PROGRAMS
from support.documents import TOP
from support.net import Namespace, namespace, veth_pair
from support.traffic import replay, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from support.net import Interface

TIMEOUT_S: Final = 120
TRACES: Final = TOP / "tests" / "traces"
CAPTURES: Final = {
    "trace.pcap": "http_09.pcap",
    "a.pcap": "http_09.pcap",
    "b.pcapng": "sctp.pcap",
    "dns-edns-ecs.pcap": "dns-edns-ecs.pcap",
    "http_09.pcap": "http_09.pcap",
    "sctp.pcap": "sctp.pcap",
}
_KAFKA: Final = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
}
_SUDO: Final = '#!/bin/sh\nwhile case $1 in -*) ;; *) false ;; esac; do shift; done\nexec "$@"\n'


class Host:
    """Where commands run: ``directory`` is their working directory."""

    def __init__(
        self,
        senders: Sequence[Interface],
        place: Namespace,
        directory: Path,
        broker: SecureBroker,
        names: Mapping[str, str],
    ) -> None:
        self._senders = senders
        self._place = place
        self._broker = broker
        self.directory = directory
        self._names = {
            r"\.venv/bin/flowstream": "flowstream",
            r"10\.0\.0\.1:9092,10\.0\.0\.2:9092": broker.address,
            r"(?:10\.0\.0\.1|127\.0\.0\.1|localhost):9092": broker.address,
            r"broker\.example:9093": f"localhost:{broker.ports['SASL']}",
            r"/etc/flowstream": f"{directory}/etc/flowstream",
            r"--topic a\b": "--topic flowstream.flows",
            r"--topic b\b": "--topic flowstream.counters",
            r'"wan"': '"eth1"',
            r"/run/flowstream": f"{directory}/run",
            r"/var/lib/flowstream": f"{directory}/state",
            # No such user and group are made on the machine that runs the tests.
            r"-g flowstream": "-g nogroup",
            **names,
        }

    def named(self, text: str) -> str:
        """Put the names of the stand-ins into a command or file."""
        for pattern, name in self._names.items():
            text = re.sub(pattern, name, text)
        return text

    def configure(self, toml: str) -> None:
        """Write /etc/flowstream/flowstream.toml."""
        file = self.directory / "etc" / "flowstream" / "flowstream.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.named(toml), "utf-8")

    @contextlib.contextmanager
    def started(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command in a shell; killed at the end of the block if it still runs."""
        environment = os.environ | {
            "PATH": f"{self.directory}/bin:{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(TOP),
            "USER": "nobody",
        }
        with subprocess.Popen(
            ["nsenter", f"--net={self._place.path}", "bash", "-o", "pipefail", "-c", command],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, command: str, statuses: tuple[int, ...] = (0,)) -> str:
        """Run a command to its end and return its output; its status must be one of these."""
        with self.started(self.named(command)) as process:
            output, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode in statuses, f"{command}\n{process.returncode}\n{output}{errors}"
        return output

    def run_agent(self, command: str) -> None:
        """Run an agent until it has seen packets, end it by SIGTERM: its status must be 0."""
        with self.observing(command):
            self._send()

    def publish(self) -> None:
        """Publish records of an agent at eth1, which no document's command leaves observed."""
        self.run_agent(f"flowstream run -i eth1 --sink kafka://{self._broker.address}")

    def follow(self, command: str) -> None:
        """Run a command that follows a topic until it prints a record of an agent."""
        agent = f"flowstream run -i eth1 --sink kafka://{self._broker.address}"
        with self.started(f"exec {self.named(command)}") as process, self.observing(agent):
            assert process.stdout
            deadline = time.monotonic() + TIMEOUT_S
            while not select.select([process.stdout], [], [], 0.2)[0]:
                assert time.monotonic() < deadline, command
                self._send()
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130, f"{command}\n{errors}"

    @contextlib.contextmanager
    def observing(self, command: str) -> Iterator[None]:
        """Run an agent as long as the block; then it must end in order."""
        with tempfile.NamedTemporaryFile("w+", prefix="flowstream-") as log:

            def said() -> str:
                return Path(log.name).read_text(encoding="utf-8")

            with self.started(f"exec 2>{log.name}\nexec {self.named(command)}") as process:
                wait_until(
                    lambda: '"publishing"' in said() or process.poll() is not None, TIMEOUT_S
                )
                assert '"publishing"' in said(), f"{command}\n{said()}"
                yield
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, f"{command}\n{process.returncode}\n{said()}"

    def _send(self) -> None:
        for sender in self._senders:
            for capture in ("dns-edns-ecs.pcap", "http_09.pcap"):
                replay(sender, TRACES / capture)

    def forget_topics(self) -> None:
        """Delete what other documents' commands have published."""
        with self._place.entered():
            admin = AdminClient({"bootstrap.servers": self._broker.address})

            def topics() -> list[str]:
                found = admin.list_topics(timeout=TIMEOUT_S).topics
                return [each for each in found if not each.startswith("__")]

            if topics():
                for done in admin.delete_topics(topics()).values():
                    done.result(TIMEOUT_S)
            assert wait_until(lambda: not topics()), topics()


class Site:
    """Interfaces eth0 and eth1, a cluster, for all documents."""

    def __init__(self, stack: ExitStack, scratch: Path) -> None:
        place, peers, inner = (stack.enter_context(namespace()) for _ in range(3))
        self._place = place
        *self._senders, _ = (
            stack.enter_context(veth_pair(peers, there, names=(f"peer{n}", f"eth{n % 2}"))).sender
            for n, there in enumerate((place, place, inner))
        )
        with place.entered():
            self._broker = stack.enter_context(SecureBroker())
        inside = stack.enter_context(inner.popen("sleep", "infinity"))
        stack.callback(inside.kill)
        bpf = stack.enter_context(mounted(scratch / "bpf"))
        self._names = {
            r"--netns blue": f"--netns {peers.name}",
            r"pid:4711": f"pid:{inside.pid}",
            r"/sys/fs/bpf": str(bpf),
        }

    @contextlib.contextmanager
    def host(self) -> Iterator[Host]:
        """A host with an empty working directory, but for captures, certificates and programs."""
        directory = Path(tempfile.mkdtemp(prefix="flowstream-"))
        try:
            directory.chmod(0o755)
            for name, capture in CAPTURES.items():
                shutil.copy(TRACES / capture, directory / name)
            shutil.copy(self._broker.authority.certificate, directory / "ca.pem")
            (directory / "run").mkdir()
            (directory / "run").chmod(0o777)
            (directory / "compose").symlink_to(TOP / "compose")
            (directory / "password").write_text(PASSWORDS[AGENT], "ascii")
            (directory / "key").write_bytes(bytes(range(32)))
            _write_programs(directory / "bin")
            yield Host(self._senders, self._place, directory, self._broker, self._names)
        finally:
            shutil.rmtree(directory)


def _write_programs(directory: Path) -> None:
    """Programs that documents find on the PATH: flowstream, a sudo for root, Kafka's own."""
    programs = {
        "sudo": _SUDO,
        "flowstream": f'#!/bin/sh\nexec {" ".join(FLOWSTREAM)} "$@"\n',
        **{
            name: f'#!/bin/sh\nexec {" ".join(map(shlex.quote, java(main)))} "$@"\n'
            for name, main in _KAFKA.items()
        },
    }
    directory.mkdir()
    for name, text in programs.items():
        (directory / name).write_text(text, "utf-8")
        (directory / name).chmod(0o755)
