"""The attacher's process as the agent sees it: started, watched, ended.

Imports neither numpy nor structlog: nor does the attacher have them in its memory.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import Final

from flowstream.attacher import attaching
from flowstream.closing import Closing
from flowstream.errors import FlowstreamError

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_END_S: Final = 2.0
"""Time for the attacher to end; it may be in the middle of loading a program."""


class Process(Closing):
    """The attacher's process, started before there are secrets and threads.

    ``pidfd`` is readable once it has ended. Closing it ends the process, also if it was
    never used. A context manager; closing twice is harmless.
    """

    def __init__(self) -> None:
        self.pid, self.socket = _fork()
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> str:
        """Say how the process ended, which ``pidfd`` has told."""
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # SIGCHLD is ignored: the kernel has reaped it
            return "it ended"
        if os.WIFSIGNALED(status):
            return f"it was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"it ended with status {os.WEXITSTATUS(status)}"

    def close(self) -> None:
        """End the process and wait for it; attachments stay."""
        if self.pidfd < 0:
            return
        self.socket.close()
        if not select.select([self.pidfd], [], [], _END_S)[0]:
            with contextlib.suppress(PermissionError):  # of another user, without CAP_KILL
                os.kill(self.pid, signal.SIGKILL)
        self.end()
        os.close(self.pidfd)
        self.pidfd = -1


def _fork() -> tuple[int, socket.socket]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Signals are meant for the agent, whose end ends the child: there they stay blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        child = os.fork()
        if child == 0:
            ours.close()
            attaching.run(its)
    except OSError as err:
        ours.close()
        raise FlowstreamError(f"starting a process: {err.strerror}") from err
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its.close()
    return child, ours
