"""The demonstration: two hosts, real traffic, the agent, its records and their audit."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console

from flowstream.audit import audit, tables
from flowstream.demo.network import hosts, network
from flowstream.demo.show import Viewer
from flowstream.demo.traffic import traffic
from flowstream.errors import FlowstreamError, SourceError
from flowstream.host import installation, privileges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.demo.network import Host
    from flowstream.kafka.settings import ClientSettings

PREFIX = "flowstream-demo"
LOOK_S = 0.5
START_TIMEOUT_S = 120
END_TIMEOUT_S = 30


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise it again: ``main`` has the exit status of a closed pipe."""
        raise  # noqa: PLE0704 - rich calls this while it handles the BrokenPipeError


def run(
    duration_s: float,
    sink: str | None,
    record_format: str,
    kafka: ClientSettings,
    options: Sequence[str],
) -> int:
    """Run the demonstration for ``duration_s`` seconds; return its exit status.

    The status is 0 when every packet is accounted for, else 1. Without ``sink`` it
    records into a new directory. ``kafka`` are the settings for a cluster and ``options``
    those that give them to the agent. Raises ``KernelError`` without root.
    """
    console = _Console()
    sink = sink or f"file:{tempfile.mkdtemp(prefix='flowstream-demo-')}"
    client, server = hosts()
    since_ns = time.time_ns()
    console.print(f"two hosts, {client.ipv4} and {server.ipv4}, connected by a veth pair")
    with (
        _signals_held() as interrupted,
        network(client, server),
        _agent(server, sink, record_format, duration_s + 2 * START_TIMEOUT_S, options) as agent,
    ):
        console.print(f"the agent observes {server.device} and publishes to {sink}\n")
        viewer = Viewer(sink, f"{PREFIX}.flows", since_ns, console, kafka)
        with traffic(client, server):
            asyncio.run(_watch(viewer, agent, duration_s, interrupted))
        agent.send_signal(signal.SIGTERM)
        if agent.wait(END_TIMEOUT_S) != 0:
            raise FlowstreamError("the agent failed; see its messages above")
        asyncio.run(viewer.look())
    console.print(f"\n{viewer.shown} flow records; their audit:\n")
    result = asyncio.run(audit(sink, PREFIX, client=kafka))
    tables.show(result, sys.stdout)
    console.print(
        f"\nThe records are in {sink}: flowstream audit {sink} --topic-prefix {PREFIX}",
        soft_wrap=True,
    )
    return 0 if result.holds else 1


@contextlib.contextmanager
def _signals_held() -> Iterator[threading.Event]:
    """Make signals that end a process set an event, which the demo checks at safe points.

    An exception at any other moment could leave a namespace or process behind.
    """
    interrupted = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.signal(number, lambda *_: interrupted.set()) for number in numbers]
    try:
        yield interrupted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def _watch(
    viewer: Viewer, agent: subprocess.Popen[bytes], duration_s: float, interrupted: threading.Event
) -> None:
    """Show records for ``duration_s`` seconds from the first one on, or until interrupted."""
    until = time.monotonic() + START_TIMEOUT_S
    waiting = True
    while time.monotonic() < until:
        if interrupted.is_set():
            raise KeyboardInterrupt
        if agent.poll() is not None:
            raise FlowstreamError("the agent ended early; see its messages above")
        # There is no topic before the first batch.
        with contextlib.suppress(SourceError):
            await viewer.look()
        if waiting and viewer.shown:
            waiting, until = False, time.monotonic() + duration_s
        await asyncio.sleep(LOOK_S)


@contextlib.contextmanager
def _agent(
    server: Host, sink: str, record_format: str, longest_s: float, options: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent as a process, as in production; it ends with the block.

    If the demo is killed, it ends after ``longest_s``.
    """
    command = installation.command("run", "-i", server.device)
    command += ["--netns", server.namespace, "--sink", sink, "--format", record_format]
    command += ["--topic-prefix", PREFIX, "--interval", "1", "--log-level", "warning"]
    # As the default, but without the advice to create a user.
    command += ["--user", privileges.user_name(None)]
    command += ["--duration", f"{longest_s:g}", *options]
    # In its own session: Ctrl-C reaches the demo alone, which passes it on.
    agent = subprocess.Popen(command, start_new_session=True, env=installation.environment())
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.terminate()
            try:
                agent.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
