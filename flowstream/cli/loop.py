"""The event loop of the commands that copy topics, and the signals that end them."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flowstream.errors import FlowstreamError
from flowstream.signals import first_signal

if TYPE_CHECKING:
    from collections.abc import Coroutine

_Result = TypeVar("_Result")

# SIGINT is the event loop's own matter. Windows has SIGTERM only.
_ENDING: Final = [
    signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
]


class StoppedError(FlowstreamError):
    """A signal ended the command; the exit status is that of shells, 128 + its number."""

    def __init__(self, number: signal.Signals, left: str) -> None:
        super().__init__(f"stopped by {number.name}: {left}")
        self.exit_status = 128 + number


def run_loop(work: Coroutine[Any, Any, _Result], left: str) -> _Result:
    """Run to the end, by uvloop where it is installed; Windows has none.

    The first SIGTERM, SIGHUP or SIGQUIT ends the work in order, with ``StoppedError``,
    which tells what it ``left``; a second one has its usual effect.
    """
    try:
        import uvloop  # noqa: PLC0415
    except ModuleNotFoundError:
        return asyncio.run(_stoppable(work, left))
    return uvloop.run(_stoppable(work, left))


async def _stoppable(work: Coroutine[Any, Any, _Result], left: str) -> _Result:
    task = asyncio.current_task()
    caught: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        caught.append(number)
        if task is not None:
            task.cancel()

    with first_signal(_ENDING, end):
        try:
            return await work
        except asyncio.CancelledError as err:
            if caught:
                raise StoppedError(caught[0], left) from err
            raise
