"""The agent's side: asks the attacher to attach.

with Process() as process:          # before the configuration is read
    ...
    attacher = Attacher(process, probe, user)
    attachment = attacher.attach(Target.named("eth0", Mode.AUTO))

# At run time, from the event loop; other attachments go on meanwhile.
attachment = await loop.run_in_executor(None, attacher.attach, target)

# Another sampling rate, without missing a packet: the same link, a new program.
again = replace(target, sampling=100, mode=attachment.mode, link_fd=attachment.link_fd)
successor = attacher.attach(again)
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

from flowstream.attacher import protocol
from flowstream.attacher.protocol import Reply, Request, Setup
from flowstream.errors import AttachError, KernelError
from flowstream.host import namespaces
from flowstream.kernel import explain, features

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowstream.attacher.process import Process
    from flowstream.host.privileges import User
    from flowstream.kernel.attaching import Attachable
    from flowstream.kernel.packet_filter import PacketFilter
    from flowstream.kernel.target import Target

log = structlog.get_logger()

Made = TypeVar("Made")

_MOST_DESCRIPTORS: Final = 16
"""Descriptors of an attachment."""


class Attacher(Generic[Made]):
    """Attaches a probe to interfaces by the process, one at a time, from any thread.

    ``user`` is the user that the process becomes. ``namespaces`` are descriptors of the
    network namespaces whose interfaces it attaches to, without any those of its own. Both
    processes hold the probe's maps. Raises KernelError when the process cannot give up its
    privileges.
    """

    def __init__(
        self,
        process: Process,
        probe: Attachable[Made],
        user: User,
        namespaces: Iterable[int] = (),
    ) -> None:
        self._process, self._probe = process, probe
        self._turn = threading.Lock()
        self._missing = features.missing_capabilities()
        creator = probe.creator
        setup = Setup(
            user.uid, user.gid, [os.fstat(fd).st_ino for fd in namespaces],
            creator.build, dict(creator.programs), list(creator.shared), dict(creator.own),
            creator.pins.epoch if creator.pins else 0, creator.packet_filter is not None,
        )  # fmt: skip
        directory = [creator.pins.fd] if creator.pins else []
        with _file_of(creator.packet_filter) as file:
            reply, _ = self._ask(setup, [*creator.shared.values(), *directory, *file])
        if reply.errno is not None:
            raise KernelError(f"starting the attacher: {reply.text}", reply.errno)
        if reply.text:
            log.warning("attacher_calls_not_restricted", reason=reply.text)

    def attach(self, target: Target) -> Made:
        """Load a program for ``target`` and attach it. Blocks: tens of milliseconds.

        KernelError names the interface and the remedy; its ``errno`` is the kernel's
        (ENODEV: the interface is gone).
        """
        fds = [fd for fd in (target.netns_fd, target.link_fd) if fd is not None]
        request = Request(
            "attach", target.if_index, target.record_index, target.direction, target.mode,
            target.sampling, target.raw, target.netns_fd is not None, target.link_fd is not None,
            target.earlier,
        )  # fmt: skip
        with self._turn:
            self._require_descriptors()
            reply, received = self._ask(request, fds)
            if reply.errno is not None:
                protocol.close(received)
                err = AttachError(reply.text, reply.errno, stage=reply.stage, mode=reply.mode)
                raise self._explained(err, target)
            made = self._probe.adopt(target, reply.mode, received)
        if reply.text:
            log.warning(
                "not_first",
                interface=target.interface,
                direction=target.key.direction,
                reason=reply.text,
            )
        return made

    def _ask(self, message: Setup | Request, fds: list[int]) -> tuple[Reply, list[int]]:
        sock = self._process.socket
        try:
            protocol.send(sock, message, fds)
            data, received = protocol.receive(sock, _MOST_DESCRIPTORS)
        except OSError as err:
            raise KernelError(f"the attacher does not answer: {err.strerror}") from err
        except ValueError as err:  # another thread has opened the last descriptor
            raise _not_received(errno.EMFILE) from err
        if not data:
            raise KernelError("the attacher has ended")
        return protocol.decode_reply(data), received

    def _require_descriptors(self) -> None:
        """KernelError unless this process may open those of an attachment: before it is made."""
        with contextlib.ExitStack() as stack:
            try:
                for _ in range(2 + len(self._probe.creator.own)):
                    stack.callback(os.close, os.dup(self._process.pidfd))
            except OSError as err:
                raise _not_received(err.errno or 0) from err

    def _explained(self, err: AttachError, target: Target) -> KernelError:
        with contextlib.suppress(KernelError), namespaces.inside(target.netns_fd):
            return explain.explained(err, target, self._missing)
        return explain.explained(err, target, self._missing, is_inside=False)


@contextlib.contextmanager
def _file_of(packet_filter: PacketFilter | None) -> Iterator[list[int]]:
    """Descriptor of a file in memory with the filter, none for none."""
    if packet_filter is None:
        yield []
        return
    with os.fdopen(os.memfd_create("filter"), "wb") as file:
        file.write(packet_filter.encoded())
        file.flush()
        yield [file.fileno()]


def _not_received(number: int) -> KernelError:
    return KernelError(f"receiving an attachment: {os.strerror(number)}", number)
