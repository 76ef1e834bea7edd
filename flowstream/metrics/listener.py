"""The socket that metrics are served on: bound while the process has privileges."""

from __future__ import annotations

import errno
import functools
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.errors import UsageError
from flowstream.files import shown
from flowstream.host import unprivileged
from flowstream.urls import TcpListen, UnixListen, parse_listen

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

    from flowstream.host.privileges import User

BACKLOG: Final = 64
"""Connections that the kernel keeps until they are accepted."""
_MODE: Final = 0o660
_TAKEN: Final = "another process listens there: end it, or give another address"


class Listener(Closing):
    """A socket that listens at ``address``; UsageError names the remedy where it cannot.

    The file of a UNIX socket is made, and removed at the end, with the rights of ``user``,
    to whom it belongs, with the mode 0660. One that is left from a process that has ended is
    replaced.
    """

    def __init__(self, address: str, user: User) -> None:
        self.where, self._user = parse_listen(address), user
        self._made: tuple[int, int] | None = None
        if isinstance(self.where, UnixListen):
            self.socket, self._made = _listen_at(self.where.path, user)
        else:
            self.socket = _listen_on(self.where)

    def close(self) -> None:
        """Listen no more and remove the file of a UNIX socket; harmless twice."""
        self.socket.close()
        made, self._made = self._made, None
        if made is None or not isinstance(self.where, UnixListen):
            return
        remove = functools.partial(_remove, self.where.path, made)
        if os.geteuid() == self._user.uid:
            remove()
        else:
            unprivileged.call(self._user, remove, bool)


def _listen_on(where: TcpListen) -> socket.socket:
    try:
        if where.host is None:
            return _all_addresses(where.port)
        return _tcp_socket(where.host, where.port)
    except OSError as err:
        raise UsageError(f"metrics: {where}: {_refusal(err)}") from err


def _all_addresses(port: int) -> socket.socket:
    """Listen on all addresses of IPv6 and IPv4, or of IPv4 on a host without IPv6."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)


def _tcp_socket(host: IPv4Address | IPv6Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
    # Of an IPv6 address with a zone, the number of the interface.
    ((*_, address), *_) = socket.getaddrinfo(
        str(host), port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    return socket.create_server(address, family=family, backlog=BACKLOG)


def _refusal(err: OSError) -> str:
    remedies = {
        errno.EADDRINUSE: _TAKEN,
        errno.EADDRNOTAVAIL: "no interface of this host has this address: correct it",
        errno.EACCES: "ports below 1024 take CAP_NET_BIND_SERVICE: give another port",
    }
    return remedies.get(err.errno or 0, err.strerror or "it cannot be used")


def _listen_at(path: Path, user: User) -> tuple[socket.socket, tuple[int, int]]:
    """Return a UNIX socket that listens, and the identity of its file."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # A child process binds it with the rights of the user: what stands at the path, and
        # who may create it there, the kernel checks. Both processes have the same socket.
        identity = unprivileged.call(user, lambda: _bind(made, path), tuple[int, int])
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made, identity


def _bind(unbound: socket.socket, path: Path) -> tuple[int, int]:
    os.umask(0o777 & ~_MODE)
    try:
        if _is_abandoned(path):
            path.unlink()
        unbound.bind(os.fspath(path))
        return _identity(path)
    except OSError as err:
        raise UsageError(f"metrics: unix:{shown(path)}: {_file_refusal(err, path)}") from err


def _remove(path: Path, made: tuple[int, int]) -> bool:
    """Remove the socket's file, if it is still there; return whether it was."""
    try:
        if _identity(path) != made:
            return False
        path.unlink()
    except OSError:
        return False
    return True


def _is_abandoned(path: Path) -> bool:
    """Whether the path is a socket's that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED


def _file_refusal(err: OSError, path: Path) -> str:
    if err.errno == errno.EADDRINUSE:
        return f"something else is there: {_TAKEN}, or remove the file"
    if err.errno in (errno.EACCES, errno.EPERM):
        return (
            f"the agent's user cannot create it: give {shown(path.parent)} to that user, or "
            "name a directory that is its own"
        )
    return err.strerror or "it cannot be made"


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
