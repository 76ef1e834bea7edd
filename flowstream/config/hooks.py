"""The hooks of the kernel by which packets are observed: options to attach modes.

XDP sees what an interface receives. The hook of TC, tcx, sees either direction, and runs
beside other programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.errors import UsageError

DIRECTIONS: Final = {"ingress": (INGRESS,), "egress": (EGRESS,), "both": (INGRESS, EGRESS)}
"""What --direction means."""
TCX: Final = "tcx"

AttachModes = Mapping[int, tuple[str, ...]]
"""For each direction that is observed the values of ``kernel.link.Mode`` to try, in order.

Later ones are for interfaces on which another program holds the hook of those before."""


def attach_modes(direction: str, hook: str, mode: str) -> AttachModes:
    """Return the modes of the options ``direction``, ``hook`` and ``mode``."""
    received = {"auto": (mode, TCX), "xdp": (mode,), "tcx": (TCX,)}[hook]
    return {each: received if each == INGRESS else (TCX,) for each in DIRECTIONS[direction]}


DEFAULT: Final = attach_modes("ingress", "auto", "auto")
"""Without any of the options."""


def needs_tc_hook(modes: AttachModes) -> bool:
    """Whether a direction is observed at the TC hook on every interface."""
    return any(first == TCX for first, *_ in modes.values())


def check_hook(direction: str, hook: str, mode: str) -> None:
    """Raise ``UsageError`` for options that contradict each other."""
    if direction == "egress" and hook == "xdp":
        raise UsageError(
            "hook: xdp sees received packets only and the direction is egress; leave it out or "
            "use tcx"
        )
    if mode == "auto":
        return
    if hook == "tcx":
        raise UsageError(f"mode: {mode} is a mode of xdp and the hook is tcx; leave one out")
    if direction == "egress":
        raise UsageError(
            f"mode: {mode} is a mode of xdp, which sees received packets only, and the direction "
            "is egress; leave it out"
        )
