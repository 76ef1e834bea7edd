"""Who this host is."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import structlog

MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

log = structlog.get_logger()


def host_name() -> str:
    """The host's name, as gethostname(2) gives it."""
    return socket.gethostname()


def host_id() -> bytes:
    """16 octets of machine-id(5); without one, a digest of the host's name, with a warning."""
    for path in MACHINE_ID_FILES:
        try:
            machine_id = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
        if len(machine_id) == 16:
            return machine_id
    name = host_name()
    log.warning(
        "no machine id: host_id is made from the host's name",
        host=name,
        remedy="systemd-machine-id-setup, or mount /etc/machine-id into the container",
    )
    return hashlib.sha256(f"flowstream {name}".encode(errors="replace")).digest()[:16]
