"""A peer that announces more octets than any broker sends, and sends them."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from aiokafka.conn import create_conn
from aiokafka.errors import CorrelationIdError, KafkaConnectionError
from support.memory import measured

from flowstream.kafka.frames import BoundedId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST = 2**31 - 1
# Octets that the peer sends to each client: a client that keeps them is larger than this.
SENT = 400 << 20


@contextmanager
def flood(announced: int) -> Iterator[int]:
    """Port of a listener that announces a frame to every client and sends zeros."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=send, args=listener.accept(), daemon=True).start()

        def send(client: socket.socket, _: object) -> None:
            piece = bytes(1 << 20)
            with client, suppress(OSError):
                client.sendall(announced.to_bytes(4, "big"))
                for _ in range(SENT // len(piece)):
                    client.sendall(piece)
                client.recv(1 << 16)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "command",
    [
        "run -i lo --mode generic --sink {url}",
        "audit {url}",
        "check --sink {url}",
        "record {url} --topic t --to {directory}",
    ],
    ids=lambda command: command.partition(" ")[0],
)
def test_memory_is_bounded(command: str, tmp_path: Path) -> None:
    with flood(LARGEST) as port:
        url, directory = f"kafka://127.0.0.1:{port}", tmp_path / "recording"
        arguments = command.format(url=url, directory=directory).split()
        status, text, peak = measured(arguments, tmp_path / "output")
    assert status == 1, text
    assert "Traceback" not in text
    assert f"127.0.0.1:{port}" in text
    assert f"it announces an answer of {LARGEST} octets" in text
    assert 0 < peak < SENT // 2


@pytest.mark.anyio
async def test_other_users_of_aiokafka_in_this_process_are_not_bounded(monkeypatch) -> None:
    monkeypatch.setattr("flowstream.kafka.frames.FRAME_LIMIT", 1000)
    with flood(1001) as port:
        with pytest.raises(KafkaConnectionError) as ours:
            await create_conn("127.0.0.1", port, client_id=BoundedId("flowstream"))
        # Read whole: the zeros are not an answer to the first request.
        with pytest.raises(CorrelationIdError):
            await create_conn("127.0.0.1", port, client_id="flowstream")
    assert "the peer announces a frame of 1001 octets" in str(ours.value.__cause__)
