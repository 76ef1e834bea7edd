"""An agent's side without privileges: attaches by its attacher and counts what is sent to it.

    unprivileged_agent.py PROGRAM NAMESPACE INTERFACE MODE DIRECTION

Gives up its privileges before it attaches. For each line on standard input it does what the
line says and answers by a line of JSON: "attach", "sample N", "count", "missing INDEX".
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import flowstream.attacher.process

process = flowstream.attacher.process.Process()

from flowstream.agent.run import PROBES  # noqa: E402 - the process was forked before
from flowstream.attacher.client import Attacher  # noqa: E402
from flowstream.errors import KernelError  # noqa: E402
from flowstream.host import privileges  # noqa: E402
from flowstream.host.namespaces import Namespace  # noqa: E402
from flowstream.kernel import features  # noqa: E402
from flowstream.kernel.link import Mode  # noqa: E402
from flowstream.kernel.target import Target  # noqa: E402


class Agent:
    """Attachments of one interface, made one after the other."""

    def __init__(
        self, program: str, label: str, interface: str, mode: Mode, direction: int
    ) -> None:
        probe = PROBES[program](max_flows=1_009)
        user = privileges.find_user("nobody")
        namespace = Namespace.open(label)
        assert namespace.fd
        self._attacher = Attacher(process, probe, user, [namespace.fd])
        with namespace.entered():
            target = Target.named(interface, mode, direction=direction)
            self._target = replace(target, netns_fd=namespace.fd)
        privileges.give_up(user)
        self._attachments: list[Any] = []

    def attach(self) -> str:
        """Attach; return the mode."""
        self._attachments.append(self._attacher.attach(self._target))
        return str(self._attachments[-1].mode)

    def sample(self, rate: str) -> list[str]:
        """Change the sampling rate; return the capabilities of this process."""
        last = self._attachments[-1]
        again = replace(self._target, sampling=int(rate), mode=last.mode, link_fd=last.link_fd)
        self._attachments.append(self._attacher.attach(again))
        last.detach()
        return sorted(features.effective_capabilities())

    def count(self) -> list[int]:
        """Packets that each of the programs has seen."""
        return [each.counters().seen.packets for each in self._attachments]

    def missing(self, index: str) -> None:
        """Attach to an index that no interface has."""
        self._attacher.attach(replace(self._target, if_index=int(index)))


def main(program: str, label: str, interface: str, mode: str, direction: str) -> None:
    """Answer each line."""
    agent = Agent(program, label, interface, Mode(mode), int(direction))
    for line in sys.stdin:
        command, *arguments = line.split()
        try:
            answer = getattr(agent, command)(*arguments)
        except KernelError as err:
            answer = {"error": str(err), "errno": err.errno}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
