"""What goes on beside a block, in a thread of its own."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def background(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``work`` during the block; the event that it gets is set at the block's end."""
    end = threading.Event()
    thread = threading.Thread(target=work, args=(end,), name=name)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
