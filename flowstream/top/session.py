"""One run of the command: a feed, its pump and model, and how they are shown."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Final

from flowstream.top.model import Model, Order
from flowstream.top.printing import document, plain
from flowstream.top.pump import Pump

if TYPE_CHECKING:
    from flowstream.top.feeds import Feed
    from flowstream.top.settings import Settings

_LATE: Final = (
    "concurrent.futures.thread",
    *(f"textual.drivers.{name}" for name in ("linux_driver", "headless_driver")),
    *(f"textual.layouts.{name}" for name in ("factory", "horizontal", "stream")),
    *(f"textual.{name}" for name in ("pilot", "scrollbar")),
)
"""What a screen imports once it runs."""


def load(settings: Settings) -> None:
    """Import what showing needs: later the user may not be allowed to read the installation."""
    if settings.once or settings.json:
        return
    from flowstream.top import app  # noqa: F401, PLC0415

    for name in _LATE:
        # Not every version of textual has each of them.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)


def show(feed: Feed, source: str, settings: Settings) -> int:
    """Show a feed until its end or the user's; return the exit status.

    Raises ``FlowstreamError`` when the feed cannot be read.
    """
    model = Model(settings.seconds, whole=settings.whole)
    model.select(settings.where, None)
    pump = Pump(feed, model, exact=settings.whole)
    if settings.once or settings.json:
        return _print(pump, model, source, settings)
    from flowstream.top.app import TopApp  # noqa: PLC0415

    return TopApp(pump, model, source, settings).show()


def _print(pump: Pump, model: Model, source: str, settings: Settings) -> int:
    """Print a table or document for each period, or one of everything."""
    order = Order(late=False)
    pump.start()
    try:
        while True:
            _wait(pump, settings)
            pump.raise_error()
            pump.note()
            view = model.take().view(settings.group, order, slice(settings.rows))
            if settings.json:
                line = document(view, source, settings.group).decode()
            else:
                line = plain(view, source, settings.group)
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            if settings.once or pump.ended.is_set():
                return 0
    finally:
        pump.stop()


def _wait(pump: Pump, settings: Settings) -> None:
    """Wait for the end of a period, which begins with the first records; or of the feed."""
    if settings.whole:
        pump.ended.wait()
        return
    if not pump.wait_for_begin(settings.seconds):
        return
    pump.ended.wait(settings.seconds)
