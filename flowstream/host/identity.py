"""Identity of this host: id, name and address."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import uuid
from pathlib import Path
from typing import Final

import structlog

MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
APPLICATION_ID: Final = uuid.UUID("6e5152ff-0539-4c32-a54a-4c70f156d155")
"""Identifies flowstream in the derivation of ``host_id``; it must never change."""

_MACHINE_ID_OCTETS: Final = 16
# RFC 5737 and RFC 3849: addresses for documentation, so routed by the default route.
_DEFAULT_ROUTED: Final = (
    (socket.AF_INET, "192.0.2.1"),
    (socket.AF_INET6, "2001:db8::1"),
)
_ANY_PORT: Final = 9

log = structlog.get_logger()


def host_name() -> str:
    """Return the host's name, as gethostname(2) gives it."""
    return socket.gethostname()


def host_id() -> bytes:
    """Return 16 octets, a version 4 UUID that names the host to flowstream's consumers.

    It is derived from the machine id, which is confidential (machine-id(5)), as
    sd_id128_get_machine_app_specific(3) derives it for ``APPLICATION_ID``. Without a
    machine id it is derived from the host's name in the same way, with a warning.
    """
    for path in MACHINE_ID_FILES:
        try:
            machine_id = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
        # An image's machine id may be all zeros until its first boot.
        if len(machine_id) == _MACHINE_ID_OCTETS and any(machine_id):
            return _derived(machine_id)
    name = host_name()
    log.warning(
        "no machine id: host_id is made from the host's name",
        host=name,
        remedy="systemd-machine-id-setup, or mount /etc/machine-id into the container",
    )
    return _derived(name.encode(errors="replace"))


def _derived(key: bytes) -> bytes:
    digest = hmac.digest(key, APPLICATION_ID.bytes, "sha256")
    # With the bits of version and variant, as id128_make_v4_uuid of systemd sets them.
    return uuid.UUID(bytes=digest[:16], version=4).bytes


def agent_address(literal: str | None = None) -> bytes:
    """Return the agent's address in 16 octets, an IPv4 address v4-mapped.

    ``literal`` is an IPv4 or IPv6 address (else ``ValueError``). Without it, the
    address is the source address of the default route, IPv4 before IPv6, and
    0.0.0.0 without any route.
    """
    address = ipaddress.ip_address(_routed_address() if literal is None else literal)
    if isinstance(address, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff" * 2 + address.packed
    return address.packed


def _routed_address() -> str:
    for family, destination in _DEFAULT_ROUTED:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                # Looks up the route and sends nothing.
                probe.connect((destination, _ANY_PORT))
            except OSError:
                continue
            address: str = probe.getsockname()[0]
            return address
    return "0.0.0.0"  # noqa: S104 - the unspecified address, nothing is bound
