"""Resource limits of this process: descriptors and threads."""

from __future__ import annotations

import sys
import threading
from typing import Final

from flowstream.errors import FlowstreamError

if sys.platform != "win32":
    import resource

DESCRIPTORS: Final = 32
"""Descriptors of any command: streams, event loop, modules, a few files and connections."""


def require_descriptors(count: int = DESCRIPTORS) -> None:
    """Raise the soft limit to the hard one; ``FlowstreamError`` if that is below ``count``.

    Windows has no such limit.
    """
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < count:
        raise FlowstreamError(
            f"at least {count} file descriptors are needed and {hard} are allowed: "
            f"raise the hard limit, by ulimit -Hn {count} or LimitNOFILE={count}"
        )


def require_threads(count: int) -> None:
    """Start ``count`` threads that end at once; ``FlowstreamError`` if that is not allowed.

    The limit of processes counts the threads of all processes of the user.
    """
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as err:
        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        allowed = "any number" if limit == resource.RLIM_INFINITY else limit
        raise FlowstreamError(
            f"{count} threads are needed and cannot be started: ulimit -u allows this user "
            f"{allowed}, and a cgroup may limit tasks (TasksMax=, --pids-limit)"
        ) from err
    finally:
        end.set()
