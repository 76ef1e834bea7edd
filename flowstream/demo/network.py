"""Two hosts on one machine: network namespaces connected by a veth pair."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.errors import KernelError
from flowstream.host import stale_namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator


_NAMES: Final = re.compile(r"flowstream-(?:client|server)-([0-9]+)")


class Host(NamedTuple):
    """One host: namespace, device and addresses."""

    namespace: str
    device: str
    mac: str
    ipv4: str
    ipv6: str


def hosts() -> tuple[Host, Host]:
    """Return client and server; the process id in their names lets demos run in parallel."""
    client = Host(
        f"flowstream-client-{os.getpid()}", "client0", "02:00:00:00:00:01",
        "10.0.0.1", "2001:db8::1",
    )  # fmt: skip
    server = Host(
        f"flowstream-server-{os.getpid()}", "server0", "02:00:00:00:00:02",
        "10.0.0.2", "2001:db8::2",
    )  # fmt: skip
    return client, server


@contextlib.contextmanager
def network(client: Host, server: Host) -> Iterator[None]:
    """Create both hosts and connect them; remove them when the block ends.

    Hosts of demos that were killed are removed at the start.
    """
    stale_namespaces.sweep(_NAMES)
    with contextlib.ExitStack() as stack:
        for host in (client, server):
            _ip("netns", "add", host.namespace)
            stack.callback(_remove, host.namespace)
            stack.enter_context(stale_namespaces.held(host.namespace))
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        _ip(
            *("-n", client.namespace, "link", "add", client.device, "type", "veth"),
            *("peer", "name", server.device, "netns", server.namespace),
        )
        for host in (client, server):
            _configure(host)
        yield


def _configure(host: Host) -> None:
    # With the offload, tags travel beside the packet, where XDP does not see them.
    _run("ip", "netns", "exec", host.namespace, "ethtool", "-K", host.device, "txvlan", "off")
    _ip("-n", host.namespace, "link", "set", host.device, "address", host.mac, "up")
    _ip("-n", host.namespace, "address", "add", f"{host.ipv4}/24", "dev", host.device)
    # nodad: the address is usable at once.
    _ip("-n", host.namespace, "address", "add", f"{host.ipv6}/64", "dev", host.device, "nodad")


def _remove(namespace: str) -> None:
    # The kernel removes its devices with it.
    subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as err:
        raise KernelError(f"{command[0]} is missing: install iproute2 and ethtool") from err
    except subprocess.CalledProcessError as err:
        raise KernelError(
            f"creating the demo's network: {' '.join(command)}: {err.stderr.strip()}; "
            "the demo needs root"
        ) from err
