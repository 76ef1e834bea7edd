"""Two threads: one reads a feed, one adds up; between them a queue that never holds reading up."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

from flowstream.streams import Stream

if TYPE_CHECKING:
    from flowstream.messages import Message
    from flowstream.top.feeds import Feed
    from flowstream.top.model import Model

_LISTS: Final = 16
_END_S: Final = 5.0
_LOOK_S: Final = 0.05


class Pump:
    """Reads a feed into a model.

    When records come faster than they can be added up, whole lists of them are skipped and
    counted, unless ``exact``: then reading waits. Counters are never skipped.
    """

    def __init__(self, feed: Feed, model: Model, *, exact: bool) -> None:
        self._feed, self._model, self._exact = feed, model, exact
        self._queue: queue.Queue[list[Message] | None] = queue.Queue(_LISTS)
        self._reader = threading.Thread(target=self._read, name="top-reader", daemon=True)
        self._adder = threading.Thread(target=self._add, name="top-adder", daemon=True)
        self._error: BaseException | None = None
        self._begun = threading.Event()
        self.ended = threading.Event()
        """Set once nothing more comes and everything is added up."""

    def start(self) -> None:
        """Start to read."""
        self._reader.start()
        self._adder.start()

    def wait_for_begin(self, seconds: float) -> bool:
        """Wait for the first messages; return whether they have come.

        A feed that is sure to have some is waited for without a limit.
        """
        until = time.monotonic() + seconds
        while not self._begun.wait(_LOOK_S) and not self.ended.is_set():
            if not self._feed.is_certain and time.monotonic() > until:
                break
        return self._begun.is_set()

    def note(self) -> None:
        """Tell the model of the feed's warnings."""
        self._model.notes = self._feed.warnings

    def stop(self) -> None:
        """End reading; what has not been added up by then is not."""
        self._feed.stop()
        self._reader.join(_END_S)

    @property
    def failed(self) -> bool:
        """Whether an error ended the reading."""
        return self._error is not None

    def raise_error(self) -> None:
        """Raise what ended the reading, if it was an error."""
        if self._error is not None:
            raise self._error

    def _take(self, messages: list[Message]) -> None:
        self._begun.set()
        if self._exact or _is_counters(messages):
            self._queue.put(messages)
            return
        try:
            self._queue.put_nowait(messages)
        except queue.Full:
            self._model.skipped += len(messages)

    def _read(self) -> None:
        try:
            self._feed.run(self._take)
        except BaseException as err:  # noqa: BLE001 - the main thread raises it
            self._error = err
        self._queue.put(None)

    def _add(self) -> None:
        while (messages := self._queue.get()) is not None:
            try:
                if _is_counters(messages):
                    self._model.add_counters(messages)
                else:
                    self._model.add_flows(messages)
            except BaseException as err:  # noqa: BLE001 - the main thread raises it
                self._error = self._error or err
                self._feed.stop()
        self.ended.set()


def _is_counters(messages: list[Message]) -> bool:
    return messages[0].topic.endswith(f".{Stream.COUNTERS}")
