"""``flowstream health`` asks a real agent, and what is no agent."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, on

from flowstream.cli import health
from flowstream.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

TCP = "127.0.0.1:9435"


def asked(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["health", *arguments])
    return (status, *capsys.readouterr())


@pytest.mark.parametrize("form", ["tcp", "unix"])
def test_an_agent_is_alive_and_ready_until_it_ends(form, wire, tmp_path, capsys):
    _, receiver = wire
    address = TCP if form == "tcp" else f"unix:{tmp_path}/metrics.sock"
    sink = f"file:{tmp_path}/recording"
    with Agent(*on(receiver), "--sink", sink, "--metrics", address, "--user", "root") as agent:
        agent.publishing()
        assert asked(capsys, address) == (0, "ok\n", "")
        status, out, err = asked(capsys, address, "--ready")
        assert (status, err) == (0, "")
        assert json.loads(out)["ready"] is True
        agent.stop()
    status, out, err = asked(capsys, address)
    assert (status, out) == (1, "")
    assert err.endswith("is an agent running with this address as --metrics?\n")
    assert err.startswith(f"flowstream: error: {address}: ")


def test_an_agent_that_observes_nothing_is_alive_but_not_ready(wire, tmp_path, capsys):
    with Agent("-i", "none*", "--sink", f"file:{tmp_path}/r", "--metrics", TCP) as agent:
        assert agent.saw("serving_metrics", 60), agent.output()
        agent.publishing()
        assert asked(capsys, TCP) == (0, "ok\n", "")
        status, out, err = asked(capsys, TCP, "--ready")
        assert (status, out) == (1, "")
        assert err.startswith(f'flowstream: error: {TCP}: 503 {{"ready":false')


@contextlib.contextmanager
def answering(octets: bytes) -> Iterator[str]:
    """A server that answers one client with these octets, and then waits for its end."""

    def serve() -> None:
        client, _ = server.accept()
        # The client may close with octets unread.
        with client, contextlib.suppress(ConnectionError):
            client.sendall(octets)
            while client.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        host, port = server.getsockname()
        yield f"{host}:{port}"
        thread.join()


@pytest.mark.parametrize(
    "octets", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000]
)
def test_what_is_no_agent_is_an_error_of_one_line(octets, capsys, monkeypatch):
    monkeypatch.setattr(health, "TIMEOUT_S", 0.5)
    with answering(octets) as address:
        status, out, err = asked(capsys, address)
    assert (status, out) == (1, "")
    assert err.startswith(f"flowstream: error: {address}: ")
    assert err.count("\n") == 1


def test_a_server_that_does_not_come_to_an_answer_is_left(capsys, monkeypatch):
    monkeypatch.setattr(health, "TIMEOUT_S", 0.5)

    def serve() -> None:
        client, _ = server.accept()
        with client, contextlib.suppress(ConnectionError):
            while True:
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        status, out, err = asked(capsys, address)
        thread.join()
    assert (status, out) == (1, "")
    assert err.startswith(f"flowstream: error: {address}: no answer in time; is an agent ")


def test_an_answer_is_shown_without_its_control_characters(capsys):
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\x1b[2Jok") as address:
        assert asked(capsys, address) == (0, "\\x1b[2Jok\n", "")


def test_of_a_large_answer_the_beginning_is_read(capsys):
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70_000) as address:
        assert asked(capsys, address) == (0, "a" * 65_536 + "\n", "")


@pytest.mark.parametrize("address", ["9435", "localhost:9435", "unix:relative", "127.0.0.1:0"])
def test_an_address_is_one_of_those_of_metrics(address, capsys):
    status, _, err = asked(capsys, address)
    assert status == 2
    assert "is not allowed" in err or "is not an IPv4 address" in err
