"""Biflows of a host that forwards, observed in both directions, against those who connected."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support import site
from support.agent import Agent, audited, records_of
from support.net import interface

from flowstream.records import Biflow, Evidence, biflows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.net import Namespace

TCP, ICMP, UDP = 6, 1, 17
CLIENT, SERVER, EDGE = site.CLIENTS[0], site.SERVER, site.EDGE
FROM_CLIENT, FROM_SERVER, FROM_EDGE = 23, 5, 7
PINGS, DATAGRAMS = 3, 11
PORT = 8_080
# Takes so many connections, one after the other, and answers each.
_SERVE = """
import socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
listener = socket.create_server((address, port))
print(flush=True)
for _ in range(count):
    connection, _ = listener.accept()
    with connection:
        connection.recv(100, socket.MSG_WAITALL)
        connection.sendall(bytes(200))
        connection.recv(1)
"""
_CONNECT = """
import socket, sys
source, to, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(count):
    with socket.create_connection((to, port), source_address=(source, 0)) as connection:
        connection.sendall(bytes(100))
        connection.recv(200, socket.MSG_WAITALL)
"""
_SEND = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((sys.argv[1], 0))
for _ in range(int(sys.argv[4])):
    sender.sendto(bytes(50), (sys.argv[2], int(sys.argv[3])))
"""


class Observed(NamedTuple):
    """What the agent on edge published, and packets of the server's interface."""

    url: str
    packets: int


def connect(near: Namespace, source: str, far: Namespace, to: str, count: int) -> None:
    serve = [sys.executable, "-c", _SERVE, to, str(PORT), str(count)]
    with far.popen(*serve, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline()
        near.run(sys.executable, "-c", _CONNECT, source, to, str(PORT), str(count))
        assert server.wait(60) == 0


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    directory: Path = tmp_path_factory.mktemp("biflows")
    url = f"file:{directory}/recording"
    with site.network() as (client, edge, server):
        chosen = ("-i", "wan", "-i", "lan", "--netns", edge.name, "--direction", "both")
        with Agent(*chosen, "--interval", 600, "--sink", url) as agent:
            agent.publishing()
            connect(client, CLIENT, server, SERVER, FROM_CLIENT)
            connect(server, SERVER, client, CLIENT, FROM_SERVER)
            connect(edge, EDGE, server, SERVER, FROM_EDGE)
            client.run("ping", "-q", "-c", str(PINGS), "-i", "0.01", "-I", CLIENT, SERVER)
            server.run(sys.executable, "-c", _SEND, SERVER, CLIENT, "5353", str(DATAGRAMS))
            agent.stop()
        eth0 = interface(server, "eth0")
        yield Observed(url, eth0.statistic("rx_packets") + eth0.statistic("tx_packets"))


def paired(observed: Observed, *topics: str) -> list[Biflow]:
    return biflows(
        record for topic in topics for record in records_of(observed.url, f"flowstream.{topic}")
    )


def of(proto: int, found: list[Biflow]) -> list[Biflow]:
    return [each for each in found if each.proto == proto]


@pytest.mark.parametrize(
    ("topics", "evidence"),
    [(("flows",), Evidence.SYN_ORDER), (("flows", "new_flows"), Evidence.SYN)],
)
def test_who_connected(observed: Observed, topics: tuple[str, ...], evidence: Evidence) -> None:
    """One record has all of a direction: only announcements have the first packet alone."""
    found = of(TCP, paired(observed, *topics))
    assert {each.evidence for each in found} == {evidence}
    assert {each.dst_port for each in found} == {PORT}
    assert Counter((str(each.source), str(each.destination)) for each in found) == {
        (CLIENT, SERVER): FROM_CLIENT,
        (SERVER, CLIENT): FROM_SERVER,
        (EDGE, SERVER): FROM_EDGE,
    }


def test_every_packet_counts_once(observed: Observed) -> None:
    found = paired(observed, "flows")
    uniflows = [each for biflow in found for each in (biflow.forward, biflow.reverse) if each]
    assert sum(each.packets for each in uniflows) == observed.packets
    seen = sum(each["seen"]["packets"] for each in audited(observed.url))
    own = sum(
        each.forward.packets + each.reverse.packets
        for each in of(TCP, found)
        if str(each.source) == EDGE and each.forward and each.reverse
    )
    assert own >= FROM_EDGE * 8
    assert seen == 2 * (observed.packets - own) + own


def test_pings(observed: Observed) -> None:
    (ping,) = (each for each in of(ICMP, paired(observed, "flows")) if each.icmp_type == 8)
    assert (str(ping.source), ping.evidence) == (CLIENT, Evidence.ICMP_TYPE)
    assert ping.forward is not None
    assert ping.reverse is not None
    assert (ping.forward.packets, ping.reverse.packets) == (PINGS, PINGS)


def test_one_direction(observed: Observed) -> None:
    (sent,) = of(UDP, paired(observed, "flows"))
    assert sent.forward is not None
    assert (str(sent.source), sent.forward.packets, sent.reverse) == (SERVER, DATAGRAMS, None)
    assert sent.evidence == Evidence.NONE
