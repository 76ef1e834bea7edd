"""The attacher: a process that does nothing but attach, and has the privileges for it.

It is forked before the agent reads its configuration, so its memory has none of the secrets
there. The first message tells it what to create and the user to become. Then it gives up
everything that attaching does not need: capabilities, descriptors, and, with libseccomp,
system calls. From there on it opens and imports nothing: it waits for a request, attaches,
hands over the descriptors and keeps none of them. It ends when the agent's end of the
socket is closed, however the agent ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import mmap
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from flowstream.attacher import protocol
from flowstream.attacher.permitted import Permitted
from flowstream.attacher.protocol import TEXT, Reply, Request, Setup
from flowstream.errors import AttachError, FlowstreamError, KernelError
from flowstream.host import namespaces, privileges, seccomp
from flowstream.host.seccomp import Argument
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import features
from flowstream.kernel.creator import Creator
from flowstream.kernel.generation import LinkPin
from flowstream.kernel.link import Mode
from flowstream.kernel.map import Map
from flowstream.kernel.run_pins import RunPins
from flowstream.kernel.stages import Stage, at
from flowstream.kernel.target import Target
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from flowstream.attacher.leases import Leases
    from flowstream.kernel.packet_filter import PacketFilter
    from flowstream.kernel.parts import Parts

_MOST_SHARED: Final = 16
"""Maps that all attachments share."""
# linux/bpf.h, enum bpf_cmd: create a map, load a program, describe an object, create and
# update a link.
_COMMANDS: Final = (0, 5, 15, 28, 29)
_NEVER_EXECUTABLE: Final = (Argument(2, 0, mmap.PROT_EXEC),)
CALLS: Final = {
    "bpf": [Argument(0, command) for command in _COMMANDS],
    # os.fstat, by whichever of the two the C library has.
    "fstat": (),
    "newfstatat": [Argument(3, 0x1000)],
    "setns": [Argument(1, namespaces.CLONE_NEWNET)],
    **dict.fromkeys(("recvmsg", "sendmsg", "close", "exit_group"), ()),
    "fcntl": [Argument(1, fcntl.F_DUPFD_CLOEXEC)],
    # Whether an interface is gone: SIOCGIFNAME (linux/sockios.h).
    "socket": [Argument(0, socket.AF_UNIX)],
    "ioctl": [Argument(1, 0x8910)],
    # What the interpreter needs to go on: memory, locks, the clock, signals.
    **dict.fromkeys(("mmap", "mprotect"), _NEVER_EXECUTABLE),
    **dict.fromkeys(("munmap", "mremap", "madvise", "brk", "futex", "clock_gettime"), ()),
    **dict.fromkeys(("rt_sigreturn", "restart_syscall"), ()),
}
"""System calls that attaching needs; a condition says which of their uses."""
NAME: Final = "flow-attacher"
"""Name of the process in ps."""
# Pin and open what is pinned; move and remove pins; see what an opened pin is.
PIN_CALLS: Final = {
    **CALLS,
    "bpf": [*CALLS["bpf"], Argument(0, 6), Argument(0, 7)],
    **dict.fromkeys(("renameat", "renameat2", "unlinkat", "readlink", "readlinkat"), ()),
}
"""System calls that attaching with pins needs."""
# Sockets of rtnetlink, of presence and of leases; the namespace of one of them, to lock it:
# SIOCGSKNS (linux/sockios.h). SO_COOKIE (asm-generic/socket.h).
CLSACT_CALLS: Final = {
    "socket": [Argument(0, socket.AF_NETLINK)],
    "socketpair": [Argument(0, socket.AF_UNIX)],
    "ioctl": [Argument(1, 0x894C)],
    "getsockopt": [Argument(2, 57)],
    # To send, the C library has either call, by machine.
    **dict.fromkeys(("bind", "send", "sendto", "getsockname", "flock", "poll", "ppoll"), ()),
}
"""System calls that TC filters need besides, on kernels without TCX."""


def run(sock: socket.socket) -> NoReturn:
    """Be the attacher until the connection ends, without the parent's clean-up."""
    status = 1
    try:
        data, fds = protocol.receive(sock, _MOST_SHARED)
        if data:
            _attach_all(sock, protocol.decode_setup(data), fds)
        status = 0
    except (BrokenPipeError, ConnectionResetError):  # the agent is gone
        status = 0
    except BaseException as err:  # noqa: BLE001 - nothing may reach the parent's handlers
        text = f"the attacher ends: {type(err).__name__}: {err}"
        with contextlib.suppress(OSError):
            protocol.send(sock, Reply(errno.EIO, text=text[:TEXT]), [])
    finally:
        os._exit(status)


def _attach_all(sock: socket.socket, setup: Setup, shared: list[int]) -> None:
    try:
        attacher = _Attacher(setup, shared)
        reason = attacher.give_up(sock, setup, shared)
    except (FlowstreamError, OSError) as err:
        protocol.send(sock, Reply(errno.EPERM, text=str(err)[:TEXT]), [])
        return
    protocol.send(sock, Reply(text=reason[:TEXT]), [])
    with attacher.leases or contextlib.nullcontext():
        while attacher.answer(sock):
            pass


class _Attacher:
    def __init__(self, setup: Setup, shared: list[int]) -> None:
        features.raise_memlock()
        # The answers are kept: uname(2) is refused later.
        features.has_frags()
        self.leases = None if features.has_tcx() else _leases()
        obj = bpf_compile.obtain(setup.build)
        packet_filter = _filter_in(shared.pop()) if setup.filtered else None
        pins = RunPins(shared[-1], setup.epoch) if setup.epoch else None
        fds = dict(zip(setup.shared, shared, strict=pins is None))
        self._creator = Creator(
            obj, setup.programs, fds, setup.own, pins, packet_filter, self.leases
        )
        self._home = namespaces.own()
        self._permitted = Permitted(self._home, setup.namespaces, pins, self.leases)
        # libbpf looks at the kernel before it creates its first map.
        first = next(iter(setup.own))
        Map(obj.map(first), setup.own[first] or None).close()

    def give_up(self, sock: socket.socket, setup: Setup, shared: list[int]) -> str:
        """Keep what attaching needs; return why system calls are not restricted, or ""."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)
        _close_all_but({0, 1, 2, sock.fileno(), self._home, *shared})
        capabilities = features.kept_capabilities(netns=bool(setup.namespaces))
        privileges.keep(privileges.User(setup.uid, setup.gid), capabilities)
        # TC filters are to be removed at the end, also where this process was stopped.
        privileges.end_with_parent(signal.SIGCONT if self.leases else signal.SIGKILL)
        privileges.call_process(NAME)
        gc.freeze()
        calls = PIN_CALLS if setup.epoch else CALLS
        more = CLSACT_CALLS if self.leases else {}
        return seccomp.allow_only(
            calls | {name: [*calls.get(name, ()), *more[name]] for name in more}
        )

    def answer(self, sock: socket.socket) -> bool:
        """Wait for a request and answer it; False at the end of the connection."""
        if self.leases:
            self.leases.wait(sock)
        try:
            data, fds = protocol.receive(sock, 2)
        except ValueError as err:
            protocol.send(sock, _refused(str(err)), [])
            return True
        if not data:
            return False
        try:
            reply, parts = self._attach(data, fds)
        finally:
            protocol.close(fds)
        protocol.send(sock, reply, parts.fds if parts else [])
        if parts:
            parts.close()
        return True

    def _attach(self, data: bytes, fds: list[int]) -> tuple[Reply, Parts | None]:
        try:
            target = _target(protocol.decode_request(data), fds)
            with at(Stage.PINNING, target.mode):
                self._permitted.require(target)
            parts = self._create(target)
            if parts.mode is not Mode.CLSACT:
                self._permitted.remember(parts.fds[1])
        except UNDECODABLE as err:
            return _refused(str(err)), None
        except AttachError as err:
            return Reply(err.errno, err.stage, _shortened(str(err)), Mode(err.mode)), None
        return Reply(mode=parts.mode, text=parts.not_first), parts

    def _create(self, target: Target) -> Parts:
        if target.netns_fd is None:
            return self._creator.create(target)
        try:
            namespaces.move(target.netns_fd, "entering its network namespace")
        except KernelError as err:
            raise AttachError(str(err), err.errno, stage=Stage.ENTERING, mode=target.mode) from err
        try:
            return self._creator.create(target)
        finally:
            # Its failure ends the process, which must not attach in the wrong place.
            namespaces.move(self._home, "returning")


def _target(request: Request, fds: list[int]) -> Target:
    """Return what to attach to; ValueError when the request contradicts itself."""
    if len(fds) != request.netns + request.link:
        raise ValueError("the number of descriptors is another one")
    if request.link and request.mode is Mode.AUTO:
        raise ValueError("the mode of a link is known")
    if request.mode is Mode.CLSACT and not request.link:
        raise ValueError("clsact is a mode in force, not one to ask for")
    if request.earlier and not request.link:
        raise ValueError("a pin of no link")
    return Target(
        "", request.if_index, request.record_index, request.mode, request.sampling,
        request.direction, request.raw,
        netns_fd=fds[0] if request.netns else None, link_fd=fds[-1] if request.link else None,
        earlier=LinkPin(*request.earlier) if request.earlier else None,
    )  # fmt: skip


def _leases() -> Leases:
    from flowstream.attacher import leases  # noqa: PLC0415

    return leases.Leases()


def _filter_in(fd: int) -> PacketFilter:
    """Read the filter in a file, and close that."""
    from flowstream.kernel.packet_filter import decode  # noqa: PLC0415

    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return decode(file.read())


def _refused(text: str) -> Reply:
    return Reply(errno.EINVAL, text=text[:TEXT])


def _shortened(text: str) -> str:
    """Keep the beginning, which names the fault, and the end of the verifier's log."""
    return text if len(text) <= TEXT else f"{text[:256]} […] {text[262 - TEXT :]}"


def _close_all_but(kept: set[int]) -> None:
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd not in kept:
            with contextlib.suppress(OSError):  # that of the directory
                os.close(fd)
