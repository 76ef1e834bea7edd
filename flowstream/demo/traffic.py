"""Real traffic from client to server: ping, TCP and UDP over IPv4 and IPv6, and a VLAN."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from typing import TYPE_CHECKING

from flowstream.host.namespaces import entered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.demo.network import Host

TCP_PORT = 8080
UDP_PORT = 5353
PAUSE_S = 0.5
VLAN = 42
VLAN_PORT = 4789


@contextlib.contextmanager
def traffic(client: Host, server: Host) -> Iterator[None]:
    """Generate traffic while the block runs."""
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        with entered(server.namespace):
            listener = stack.enter_context(
                socket.create_server(("::", TCP_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
            )
            echo = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            echo.bind(("::", UDP_PORT))
        for end in (listener, echo):
            end.settimeout(0.2)
        # Daemons: an interrupt at the wrong moment must not keep the process alive.
        threads = [
            threading.Thread(target=_serve_tcp, args=(listener, stop), daemon=True),
            threading.Thread(target=_serve_udp, args=(echo, stop), daemon=True),
            threading.Thread(target=_talk, args=(client, server, stop), daemon=True),
        ]
        for address in (server.ipv4, server.ipv6):
            stack.enter_context(_pinging(client, address))
        try:
            for thread in threads:
                thread.start()
            yield
        finally:
            stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()


@contextlib.contextmanager
def _pinging(client: Host, address: str) -> Iterator[None]:
    command = ["ip", "netns", "exec", client.namespace, "ping", "-q", "-i", "0.5", address]
    ping = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        ping.terminate()
        ping.wait()


def _serve_tcp(listener: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(2)
                request = connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + request * 50)


def _serve_udp(echo: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            data, sender = echo.recvfrom(2048)
            echo.sendto(data, sender)


def _talk(client: Host, server: Host, stop: threading.Event) -> None:
    """Send requests until ``stop``; the thread enters the client's namespace for itself."""
    with entered(client.namespace):
        while not stop.wait(PAUSE_S):
            for address in (server.ipv4, server.ipv6):
                # A lost answer is acceptable.
                with contextlib.suppress(OSError):
                    _get(address)
                with contextlib.suppress(OSError):
                    _ask(address)
            _send_tagged(client, server)


def _get(address: str) -> None:
    with socket.create_connection((address, TCP_PORT), timeout=2) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while connection.recv(65536):
            pass


def _ask(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        asking.connect((address, UDP_PORT))
        for number in range(3):
            asking.send(b"question %d" % number)
            asking.recv(2048)


def _send_tagged(client: Host, server: Host) -> None:
    """Send a UDP datagram with an 802.1Q tag, built by hand to need no VLAN module."""
    payload = b"tagged"
    udp = struct.pack("!4H", VLAN_PORT, VLAN_PORT, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
    ip += socket.inet_aton(client.ipv4) + socket.inet_aton(server.ipv4)
    total = sum(struct.unpack("!10H", ip))
    checksum = ~(total + (total >> 16)) & 0xFFFF  # RFC 1071
    ip = ip[:10] + struct.pack("!H", checksum) + ip[12:]
    ethernet = bytes.fromhex((server.mac + client.mac).replace(":", ""))
    tag = struct.pack("!3H", 0x8100, VLAN, 0x0800)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((client.device, 0))
        raw.send(ethernet + tag + ip + udp)
