"""What a run pins of its attachments, in an order that fits a kill at any instant.

The counters of an attachment are pinned before a program writes to them. A link that is
taken over has its pin here before it gets this run's program: so its pin is always in the
newest generation that has counters for it.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from flowstream.errors import KernelError
from flowstream.kernel import libbpf
from flowstream.kernel.generation import counters_pin, link_pin
from flowstream.kernel.stages import Stage, at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstream.kernel.attached import Attached
    from flowstream.kernel.generation import LinkPin
    from flowstream.kernel.target import Target


class RunPins:
    """The generation ``epoch`` in a directory of pins, for its owner: it makes nothing else's.

    ``fd`` is the directory's descriptor, which stays the caller's. Needs no more calls than
    bpf, renameat and unlinkat.
    """

    def __init__(self, fd: int, epoch: int) -> None:
        self.fd, self.epoch = fd, epoch

    def counters_of(self, target: Target) -> int | None:
        """Descriptor of the counters that the program of ``target`` goes on with, the caller's.

        None unless ``target`` has a link of this run, which gets another program.
        """
        if target.link_fd is None or target.earlier is not None:
            return None
        return self._open(self.epoch, counters_pin(target.key.code))

    def open_link(self, pin: LinkPin) -> int:
        """Descriptor of what is pinned as a link in an earlier run, the caller's."""
        return self._open(pin.epoch, link_pin(pin.code))

    @contextmanager
    def attaching(self, target: Target, counters_fd: int) -> Iterator[Callable[[Attached], None]]:
        """Pin what a program needs before it is attached in the block; gives what pins its link.

        When the block raises, nothing has changed. AttachError.
        """
        code = target.key.code
        with ExitStack() as undo:
            with at(Stage.PINNING, target.mode):
                if target.link_fd is None or target.earlier is not None:
                    self._pin(counters_pin(code), counters_fd)
                    undo.callback(self.unpin, counters_pin(code))
                if target.earlier is not None:
                    theirs = f"{target.earlier.epoch}/{link_pin(target.earlier.code)}"
                    mine = f"{self.epoch}/{link_pin(code)}"
                    self._rename(theirs, mine)
                    undo.callback(self._rename, mine, theirs)
            yield partial(self._pin_link, target)
            undo.pop_all()

    def _pin_link(self, target: Target, link: Attached) -> None:
        if target.link_fd is None:
            with at(Stage.PINNING, target.mode):
                self._pin(link_pin(target.key.code), link.fd)

    def unpin(self, name: str) -> None:
        """Remove a pin; harmless when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.epoch}/{name}", dir_fd=self.fd)

    def _pin(self, name: str, fd: int) -> None:
        result = libbpf.library().bpf_obj_pin(fd, self._place(self.epoch, name))
        libbpf.check(result, f"pinning {name}")

    def _open(self, epoch: int, name: str) -> int:
        result = libbpf.library().bpf_obj_get(self._place(epoch, name))
        return libbpf.check(result, f"opening {name}")

    def _place(self, epoch: int, name: str) -> bytes:
        # The directory above it may be root's alone.
        return f"/proc/self/fd/{self.fd}/{epoch}/{name}".encode()

    def _rename(self, name: str, to: str) -> None:
        try:
            os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as err:
            raise KernelError(f"moving the pin {name}: {err.strerror}", err.errno or 0) from err
