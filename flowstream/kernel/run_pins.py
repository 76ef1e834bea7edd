"""What a run pins of its maps and links, in an order that fits a kill at any instant.

The counters of an attachment are pinned before a program writes to them. A link that is
taken over has its pin here before it gets this run's program: so its pin is always in the
newest generation that has counters for it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from flowstream.kernel.generation import SHARED, counters_pin, link_pin
from flowstream.kernel.stages import Stage, at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowstream.accounting.tally import AttachmentKey
    from flowstream.kernel.generation import Generation
    from flowstream.kernel.link import Link
    from flowstream.kernel.pins import PinDirectory
    from flowstream.kernel.target import Target


class RunPins:
    """The generation of a run that begins, in its directory; both stay the caller's."""

    def __init__(self, directory: PinDirectory, generation: Generation) -> None:
        self.directory, self.generation = directory, generation

    def share(self, fds: Sequence[int]) -> None:
        """Pin the maps that all attachments share: descriptors in the order of ``SHARED``."""
        for name, fd in zip(SHARED, fds, strict=True):
            self.generation.pin(name, fd)

    def counters_of(self, target: Target) -> int | None:
        """Descriptor of the counters that the program of ``target`` goes on with, the caller's.

        None unless ``target`` has a link of this run, which gets another program.
        """
        if target.link_fd is None or target.earlier is not None:
            return None
        return self.generation.open(counters_pin(target.key.code))

    @contextmanager
    def attaching(self, target: Target, counters_fd: int) -> Iterator[Callable[[Link], None]]:
        """Pin what a program needs before it is attached in the block; gives what pins its link.

        When the block raises, nothing has changed. AttachError.
        """
        code, own = target.key.code, self.generation
        with ExitStack() as opened, ExitStack() as undo:
            with at(Stage.PINNING, target.mode):
                if target.link_fd is None or target.earlier is not None:
                    own.pin(counters_pin(code), counters_fd)
                    undo.callback(own.unpin, counters_pin(code))
                if target.earlier is not None:
                    earlier = self.directory.generation(target.earlier.epoch)
                    opened.enter_context(earlier)
                    own.take_link(code, earlier, target.earlier.code)
                    undo.callback(earlier.take_link, target.earlier.code, own, code)
            yield partial(self._pin_link, target)
            undo.pop_all()

    def _pin_link(self, target: Target, link: Link) -> None:
        if target.link_fd is None:
            with at(Stage.PINNING, target.mode):
                self.generation.pin(link_pin(target.key.code), link.fd)

    def detached(self, key: AttachmentKey) -> None:
        """Remove the pin of a link whose program was taken off."""
        self.generation.unpin(link_pin(key.code))

    def forget(self, key: AttachmentKey) -> None:
        """Remove the counters of an attachment that was detached: they are noted elsewhere."""
        self.generation.unpin(counters_pin(key.code))
