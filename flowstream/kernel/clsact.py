"""Filters at the TC hook on kernels without TCX (before Linux 6.6).

A filter stays until it is deleted: no descriptor keeps it, as one keeps a bpf_link. So each has
the number of its holder in its handle, and a holder that lives has a socket of that number in
the filter's network namespace: what a holder that was killed has left is recognised by both,
and removed when another one attaches to the interface.

The hook is that of the interface's clsact qdisc, which is made where there is none, and deleted
with the last filter if flowstream has made it. Others use it too, and rely on theirs. rtnetlink
is spoken here rather than by libbpf's bpf_tc_attach: that cannot tell a clsact qdisc from an
ingress one, where filters of both directions see what is received, and does not find filters.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.closing import Closing
from flowstream.errors import KernelError
from flowstream.host import tc_messages
from flowstream.host.route_socket import RouteSocket
from flowstream.host.tc_messages import ALL_PROTOCOLS, BPF, Parent, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from flowstream.host.netlink import Message
    from flowstream.host.tc_messages import Filter

NAME: Final = b"flowstream"
"""Name of the filters, which tc(8) shows."""
PARENTS: Final = {INGRESS: Parent.INGRESS, EGRESS: Parent.EGRESS}
_OWN_QDISC: Final = 1
"""Bit of a handle: flowstream has made the qdisc. The others are the holder's number."""
_NO_FILTER: Final = (errno.ENOENT, errno.EINVAL)
"""Errors of a request for a filter that is gone, with its priority or qdisc or without."""
_GONE: Final = (*_NO_FILTER, errno.ENODEV)
"""Errors of a request for what is gone, perhaps with its interface."""
_DUMPS: Final = 8
"""Tries of a dump that changes interrupt."""
_TURN_TRIES: Final = 1_000
_PAUSE_MS: Final = 1
"""Between two tries. A holder needs a millisecond."""
_SIOCGSKNS: Final = 0x894C  # linux/sockios.h


def new_number() -> int:
    """Return a number for a holder of filters: one of 2³¹, at random."""
    return int.from_bytes(os.urandom(4)) & ~_OWN_QDISC


class Filters(Closing):
    """The filters of the holder ``number`` in the calling thread's network namespace.

    Its sockets are opened there, and used from anywhere; they keep the namespace alive until
    ``close``, which leaves filters. Needs CAP_NET_ADMIN. The methods raise KernelError with the
    kernel's errno (ENODEV: the interface is gone).
    """

    def __init__(self, number: int) -> None:
        self._number = number
        with ExitStack() as stack:
            self._socket = stack.enter_context(RouteSocket(timeout_s=None))
            presence = stack.enter_context(_presence(number))
            # Not the caller's descriptor of it: whoever has that could hold the lock.
            self._namespace = fcntl.ioctl(presence.fileno(), _SIOCGSKNS)
            stack.callback(os.close, self._namespace)
            self._stack = stack.pop_all()

    def add(self, if_index: int, direction: int, program_fd: int) -> Place:
        """Run a program on packets of an interface, before any other filter where possible.

        Filters of another kind may have the first priority; then it runs after those.
        Removes what holders that were killed have left on the interface. To be called in
        the network namespace.
        """
        parent = PARENTS[direction]
        with self._turn():
            is_own = self._make_qdisc(if_index, parent)
            try:
                there = self._all(if_index)
                ours = [each for each in there if each.name == NAME]
                is_own = is_own or any(each.place.handle & _OWN_QDISC for each in ours)
                place = Place(
                    if_index, parent, _first_priority(there, parent), self._number | is_own
                )
                self._ask(lambda seq: tc_messages.add_filter(seq, place, program_fd, NAME))
            except BaseException:
                if is_own:
                    self._delete_empty_qdisc(if_index)
                raise
            for each in ours:
                if not self._has_holder(each.place.handle & ~_OWN_QDISC):
                    self._delete(each.place)
        return place

    def replace(self, place: Place, program_fd: int) -> None:
        """Give a filter another program: every packet is seen by the former one or by this."""
        try:
            self._ask(lambda seq: tc_messages.replace_filter(seq, place, program_fd, NAME))
        except KernelError as err:
            if err.errno not in _NO_FILTER:
                raise
            raise KernelError("its filter is gone") from err

    def program_of(self, place: Place) -> int:
        """Number of the program that a filter runs now, 0 when the filter is gone."""
        found: list[Filter] = []
        with _harmless_if_gone():
            found = self._ask(lambda seq: tc_messages.find_filter(seq, place))
        return next((each.program_id for each in found if each.name == NAME), 0)

    def remove(self, place: Place) -> None:
        """Remove a filter, and the qdisc if it is flowstream's and empty; harmless twice."""
        with self._turn():
            if self.program_of(place):
                self._delete(place)
            if place.handle & _OWN_QDISC:
                self._delete_empty_qdisc(place.if_index)

    def close(self) -> None:
        """Release the namespace: filters that are left have no holder any more."""
        self._stack.close()

    def _make_qdisc(self, if_index: int, parent: Parent) -> bool:
        """Return whether a qdisc had to be made."""
        try:
            self._ask(lambda seq: tc_messages.add_clsact(seq, if_index))
        except KernelError as err:
            if err.errno != errno.EEXIST:
                raise
        else:
            return True
        if parent is Parent.EGRESS:
            self._require_clsact(if_index)
        return False

    def _require_clsact(self, if_index: int) -> None:
        try:
            self._ask(lambda seq: tc_messages.find_clsact(seq, if_index))
        except KernelError as err:
            if err.errno != errno.EINVAL:
                raise
            raise KernelError(
                "its ingress qdisc leaves no room for filters of what is sent: replace it by a "
                "clsact qdisc, which takes the same filters",
                errno.EBUSY,
            ) from err

    def _all(self, if_index: int) -> list[Filter]:
        return [each for parent in Parent for each in self._dump(if_index, parent)]

    def _dump(self, if_index: int, parent: Parent) -> list[Filter]:
        for _ in range(_DUMPS):
            answer, whole = self._socket.ask(
                lambda seq: tc_messages.dump_filters(seq, if_index, parent)
            )
            if whole:
                return _filters_of(answer)
        raise KernelError("the filters change too fast to be listed", errno.EAGAIN)

    def _delete(self, place: Place) -> None:
        with _harmless_if_gone():
            self._ask(lambda seq: tc_messages.delete_filter(seq, place))

    def _delete_empty_qdisc(self, if_index: int) -> None:
        with _harmless_if_gone():
            if not self._all(if_index):
                self._ask(lambda seq: tc_messages.delete_clsact(seq, if_index))

    def _ask(self, request: Callable[[int], bytes]) -> list[Filter]:
        return _filters_of(self._socket.ask(request)[0])

    def _has_holder(self, number: int) -> bool:
        if number == self._number:
            return True
        try:
            _presence(number).close()
        except KernelError:
            return True
        return False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other holders from the namespace's qdiscs for the block.

        One could otherwise delete a qdisc, found empty, to which another has just added.
        Whoever holds the lock for longer is no holder of filters, and is not waited for.
        """
        for _ in range(_TURN_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._namespace, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            select.poll().poll(_PAUSE_MS)
        try:
            yield
        finally:
            fcntl.flock(self._namespace, fcntl.LOCK_UN)


@contextmanager
def _harmless_if_gone() -> Iterator[None]:
    try:
        yield
    except KernelError as err:
        if err.errno not in _GONE:
            raise


def _presence(number: int) -> socket.socket:
    """Return a socket that tells that holder ``number`` lives; KernelError: it does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # An abstract name: it belongs to the network namespace, and ends with the socket.
        sock.bind(b"\0flowstream-clsact-%08x" % number)
    except OSError as err:
        sock.close()
        raise KernelError(
            f"holder {number:#x} of filters: {err.strerror}", err.errno or 0
        ) from err
    return sock


def _filters_of(answer: list[Message]) -> list[Filter]:
    return [each for each in map(tc_messages.filter_of, answer) if each]


def _first_priority(there: Collection[Filter], parent: Parent) -> int:
    """Return the lowest priority that no filter of another kind or protocol has."""
    taken = {
        each.place.priority
        for each in there
        if each.place.parent == parent and (each.kind, each.protocol) != (BPF, ALL_PROTOCOLS)
    }
    return min(set(range(1, len(taken) + 2)) - taken)
