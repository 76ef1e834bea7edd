"""The filters that an attacher keeps for its agent, on kernels without TCX."""

from __future__ import annotations

import contextlib
import os
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.kernel import clsact, libbpf
from flowstream.kernel import lease as leases
from flowstream.kernel.clsact import Filters
from flowstream.kernel.lease import Grant, Lease

if TYPE_CHECKING:
    import socket

    from flowstream.host.tc_messages import Place
    from flowstream.kernel.target import Target

_PERIOD_S: Final = 1.0
"""Time between two checks that the filters are still there."""


@dataclass(frozen=True, eq=False)
class _Leased:
    """A filter and its lease; ``namespace`` is the inode of its network namespace, 0 for home."""

    place: Place
    namespace: int
    program_id: int
    grant: Grant


class Leases(Closing):
    """Filters, each until the agent shuts its end of the lease, or until ``close``.

    A filter that is gone, or has another program, is not the agent's any more: its lease ends.
    """

    def __init__(self) -> None:
        self._number = clsact.new_number()
        self._filters: dict[int, Filters] = {}
        """By namespace."""
        self._leased: dict[int, _Leased] = {}
        """By the descriptor of this end."""
        self._poll = select.poll()
        self._due = 0.0

    def grant(self, program_fd: int, target: Target) -> Lease:
        """Add a filter, or give that of ``target`` another program; return the agent's end.

        To be called in the network namespace of ``target``. KernelError when the kernel refuses.
        """
        program_id, _ = libbpf.prog_info(program_fd)
        former = None if target.link_fd is None else self._leased_to(target)
        grant = Grant(program_id)
        try:
            if former is None:
                place = self._add(program_fd, target)
            else:
                place = former.place
                self._filters[former.namespace].replace(place, program_fd)
        except BaseException:
            os.close(grant.tenant_fd)
            grant.close()
            self._release_namespaces()
            raise
        self._leased[grant.fd] = _Leased(place, _namespace_of(target), program_id, grant)
        self._poll.register(grant.fd, select.POLLIN)
        if former is None:
            return Lease(grant.tenant_fd, target.if_index, _not_first(place))
        self._forget(former)
        return Lease(grant.tenant_fd, target.if_index)

    def _add(self, program_fd: int, target: Target) -> Place:
        namespace = _namespace_of(target)
        if namespace not in self._filters:
            self._filters[namespace] = Filters(self._number)
        return self._filters[namespace].add(target.if_index, target.direction, program_fd)

    def has(self, target: Target) -> bool:
        """Whether the link of ``target`` is the lease of a filter there."""
        return self._find(target) is not None

    def _leased_to(self, target: Target) -> _Leased:
        found = self._find(target)
        if found is None:
            raise KernelError("its filter is gone")
        return found

    def _find(self, target: Target) -> _Leased | None:
        if target.link_fd is None or not leases.is_lease(target.link_fd):
            return None
        number, namespace = leases.number_of(target.link_fd), _namespace_of(target)
        where = (namespace, target.if_index, clsact.PARENTS[target.direction])
        return next(
            (
                leased
                for leased in self._leased.values()
                if leased.grant.number == number
                and (leased.namespace, leased.place.if_index, leased.place.parent) == where
            ),
            None,
        )

    def wait(self, sock: socket.socket) -> None:
        """Return once a message waits in ``sock``; keep the filters meanwhile."""
        self._poll.register(sock, select.POLLIN)
        while True:
            pause_ms = max(self._due - time.monotonic(), 0) * 1e3 if self._leased else None
            ready = [fd for fd, _ in self._poll.poll(pause_ms)]
            for leased in [self._leased[fd] for fd in ready if fd in self._leased]:
                self._remove(leased)
            if self._due <= time.monotonic():
                self._check()
            if sock.fileno() in ready:
                return

    def close(self) -> None:
        """Remove all filters; harmless twice."""
        for leased in [*self._leased.values()]:
            self._remove(leased)

    def _remove(self, leased: _Leased) -> None:
        try:
            self._filters[leased.namespace].remove(leased.place)
        except KernelError:
            self._forget(leased, is_removed=False)
        else:
            self._forget(leased)

    def _check(self) -> None:
        """End the leases of filters that another process has removed, or given its program."""
        self._due = time.monotonic() + _PERIOD_S
        for leased in [*self._leased.values()]:
            with contextlib.suppress(KernelError):
                if self._filters[leased.namespace].program_of(leased.place) != leased.program_id:
                    self._forget(leased)

    def _forget(self, leased: _Leased, *, is_removed: bool = True) -> None:
        self._poll.unregister(leased.grant.fd)
        del self._leased[leased.grant.fd]
        if is_removed:
            leased.grant.say_removed()
        leased.grant.close()
        self._release_namespaces()

    def _release_namespaces(self) -> None:
        used = {leased.namespace for leased in self._leased.values()}
        for namespace in self._filters.keys() - used:
            self._filters.pop(namespace).close()


def _not_first(place: Place) -> str:
    if place.priority == 1:
        return ""
    return f"TC filters of another kind have the priorities up to {place.priority - 1}"


def _namespace_of(target: Target) -> int:
    return 0 if target.netns_fd is None else os.fstat(target.netns_fd).st_ino
