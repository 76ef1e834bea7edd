"""A broker's name that resolves late, and to another address afterwards."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio
import pytest
from support.line import line, listen
from support.outcomes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker import Broker

HERE = Path(__file__).parent
NAME = "broker.flowstream.test"
# Publishes a record per line of its standard input, and says how many are acknowledged.
CLIENT = """
import asyncio
import sys

import structlog
from support.outcomes import Account, eventually, make_batch

from flowstream.kafka.limits import Limits
from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main(address: str) -> None:
    account, sent = Account(), 0
    limits = Limits(delivery_timeout=60, stuck_timeout=2, request_timeout=1)
    sink = KafkaSink(ClientSettings((address,)), account, partitions=1, limits=limits)
    await sink.start(["t"], wait=False)
    while await asyncio.to_thread(sys.stdin.readline):
        await sink.send(make_batch("t", 0, sent, 1))
        sent += 1
        await eventually(lambda: account.settled == sent)
        print(len(account.acknowledged_values), flush=True)
    await sink.close(5)

asyncio.run(main(sys.argv[1]))
"""

pytestmark = pytest.mark.anyio


@contextmanager
def client(address: str, hosts: Path, errors: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the client where ``hosts`` is /etc/hosts."""
    mount = f'mount --bind {hosts} /etc/hosts && exec "$0" -c "$1" "$2"'
    command = ["unshare", "--mount", "sh", "-c", mount, sys.executable, CLIENT, address]
    with (
        errors.open("w") as output,
        subprocess.Popen(
            command,
            env={"PYTHONPATH": f"{HERE}:{HERE.parent}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


async def answer(stream: IO[str]) -> str:
    with anyio.fail_after(60):
        return (await anyio.to_thread.run_sync(stream.readline, abandon_on_cancel=True)).strip()


async def test_a_name_that_resolves_later_and_changes_its_address_is_followed(
    broker_factory: Callable[..., Broker], tmp_path: Path
) -> None:
    hosts, errors = tmp_path / "hosts", tmp_path / "errors"
    hosts.write_text("127.0.0.1 localhost\n")
    first = listen("127.0.0.2")
    port = first.getsockname()[1]
    broker = broker_factory(**{"advertised.listeners": f"PLAINTEXT://{NAME}:{port}"})
    with client(f"{NAME}:{port}", hosts, errors) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        await eventually(lambda: "does not resolve" in errors.read_text())
        with first:
            async with line(first, broker.port):
                hosts.write_text(f"127.0.0.2 {NAME}\n")
                assert await answer(process.stdout) == "1"
        with listen("127.0.0.3", port) as second:
            async with line(second, broker.port):
                hosts.write_text(f"127.0.0.3 {NAME}\n")
                process.stdin.write("\n")
                process.stdin.flush()
                assert await answer(process.stdout) == "2"
        process.stdin.close()
        assert process.wait(60) == 0, errors.read_text()
