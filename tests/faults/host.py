"""Faults of the agent's process, of its disk and of the spool."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from faults.scene import EXT4, SPOOLING, TMPFS, Fault, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from faults.scene import Scene

MANY_FLOWS = 10_007


@contextmanager
def away(scene: Scene) -> Iterator[None]:
    """No broker meanwhile."""
    scene.cluster.stop()
    try:
        yield
    finally:
        scene.cluster.start()


# Ends of the process.


@contextmanager
def killed(scene: Scene) -> Iterator[None]:
    """SIGKILL while the broker takes records."""
    yield
    scene.kill()
    scene.start()


@contextmanager
def killed_while_spooling(scene: Scene) -> Iterator[None]:
    """SIGKILL while records wait."""
    with away(scene):
        yield
        scene.wait(SPOOLING)
        scene.kill()
    scene.start()


@contextmanager
def stopped_while_spooling(scene: Scene) -> Iterator[None]:
    """SIGTERM while the broker is away: the next run publishes."""
    with away(scene):
        yield
        scene.stop()
    scene.start()


@contextmanager
def impatiently_stopped(scene: Scene) -> Iterator[None]:
    """A second SIGTERM while the first end waits for a frozen broker."""
    yield
    os.kill(scene.cluster.pid, signal.SIGSTOP)
    try:
        scene.traffic()
        scene.agent.signal(signal.SIGTERM)
        scene.wait("^stopping ")
        scene.stop(status=1)
    finally:
        os.kill(scene.cluster.pid, signal.SIGCONT)
    scene.start()


@contextmanager
def paused(scene: Scene) -> Iterator[None]:
    """The process does not run for a while: tables and rings hold what comes."""
    scene.agent.signal(signal.SIGSTOP)
    yield
    scene.traffic()
    scene.agent.signal(signal.SIGCONT)


# Limits and faults of the disk.


@contextmanager
def limited(scene: Scene, limit: int, value: Callable[[Scene], int]) -> Iterator[None]:
    """A resource limit of the process keeps it from writing, until it is lifted."""
    with away(scene):
        scene.traffic()
        scene.wait(SPOOLING)
        before = resource.prlimit(scene.agent.pid, limit)
        resource.prlimit(scene.agent.pid, limit, (value(scene), before[1]))
        yield
        scene.traffic_until(lambda: bool(scene.agent.logs("spool_write_failed")))
        resource.prlimit(scene.agent.pid, limit, before)
        scene.traffic_until(lambda: bool(scene.agent.logs("spool_recovered")))


def _largest(scene: Scene) -> int:
    return max(path.stat().st_size for path in scene.spool.glob("*/*.log"))


@contextmanager
def full(scene: Scene) -> Iterator[None]:
    """The disk is full for a while."""
    with away(scene):
        filler = scene.spool.with_name("filler")
        fill(filler)
        yield
        scene.traffic_until(lambda: bool(scene.agent.logs("spool_write_failed")))
        filler.unlink()
        scene.traffic_until(lambda: bool(scene.agent.logs("spool_recovered")))


@contextmanager
def stuck(scene: Scene) -> Iterator[None]:
    """Every write to the disk waits for a while."""
    with away(scene):
        scene.traffic()
        scene.wait(SPOOLING)
        subprocess.run(["fsfreeze", "--freeze", scene.disk], check=True)
        try:
            yield
            scene.traffic()
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", scene.disk], check=True)


@contextmanager
def aborted(scene: Scene) -> Iterator[None]:
    """The disk fails for good, and is repaired before the next run, which repeats records."""
    with away(scene):
        scene.traffic()
        scene.wait(SPOOLING)
        subprocess.run(["mount", "-o", "remount,abort", scene.disk], check=False)
        yield
        scene.traffic_until(lambda: bool(scene.agent.logs("spool_write_failed")))
    scene.drained()
    scene.traffic()
    scene.stop()
    scene.remount()
    scene.start()


# Limits of the spool.


@contextmanager
def overflowing(scene: Scene) -> Iterator[None]:
    """More waits than the spool may hold."""
    with away(scene):
        yield
        scene.traffic_until(
            lambda: bool(scene.agent.logs("spool_records_lost")), MANY_FLOWS, MANY_FLOWS
        )


# Damage between two runs.


@contextmanager
def damaged(scene: Scene, how: Callable[[Scene], None], *, kill: bool = False) -> Iterator[None]:
    """A run leaves records; the spool is damaged, and the next run finds it."""
    with away(scene):
        scene.traffic()
        # The checkpoint of the run is written.
        scene.wait(SPOOLING)
        scene.traffic_until(lambda: any(each.stat().st_size for each in _segments(scene)))
        yield
        scene.kill() if kill else scene.stop()
        how(scene)
    scene.start()


def _segments(scene: Scene) -> list[Path]:
    return list(scene.spool.glob(f"{scene.flows}-*/*.log"))


def _segment(scene: Scene) -> Path:
    """The largest segment of flows."""
    return max(_segments(scene), key=lambda path: path.stat().st_size)


def flip_segment(scene: Scene) -> None:
    """One bit of the first batch's records, which begin at octet 61."""
    _flip(_segment(scene), 71)


def flip_sidecar(scene: Scene) -> None:
    """One bit in the middle of a sidecar."""
    path = _segment(scene).with_suffix(".tally")
    _flip(path, path.stat().st_size // 2)


def flip_checkpoint(scene: Scene) -> None:
    """One bit in the middle of the checkpoint."""
    path = scene.spool / "checkpoint"
    _flip(path, path.stat().st_size // 2)


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (octet,) = file.read(1)
        file.seek(at)
        file.write(bytes([octet ^ 1]))


def truncate_segment(scene: Scene) -> None:
    """The last batch is cut short."""
    path = _segment(scene)
    os.truncate(path, path.stat().st_size - 17)


def remove_sidecar(scene: Scene) -> None:
    """A sidecar is gone."""
    _segment(scene).with_suffix(".tally").unlink()


def remove_checkpoint(scene: Scene) -> None:
    """The checkpoint is gone."""
    (scene.spool / "checkpoint").unlink()


DAMAGED = frozenset({"spool_damaged"})
IO_ERROR = frozenset({"io_error"})

FAULTS = [
    Fault("agent killed", "broker", killed, killed=1),
    Fault("agent killed while spooling", "broker", killed_while_spooling, killed=1, in_ci=True),
    Fault(
        "agent stopped while spooling", "broker", stopped_while_spooling,
        says=("spool_left", "spool_found", "spool_drained"),
    ),
    Fault("agent stopped twice", "broker", impatiently_stopped, killed=1),
    Fault("agent paused", "broker", paused, once=True),
    Fault(
        "no larger files", "broker",
        partial(limited, limit=resource.RLIMIT_FSIZE, value=_largest), lost=IO_ERROR,
        # The limits of another user's process need a capability.
        options=("--user", "root"),
        says=("spool_write_failed.*File too large", "spool_drained"),
    ),
    Fault("disk full", "broker", full, lost=IO_ERROR, disk=TMPFS, says=(
        "spool_write_failed.*No space", "spool_recovered", "spool_drained"
    ), in_ci=True),
    Fault("disk stuck", "broker", stuck, disk=EXT4, says=("spool_drained",)),
    Fault("disk aborted", "broker", aborted, lost=IO_ERROR, disk=EXT4),
    Fault(
        "spool larger than permitted", "broker", overflowing, lost=frozenset({"spool_full"}),
        options=("--spool-size", "1MB", "-X", "compression.type=none"),
    ),
    Fault(
        "spool older than permitted", "broker", overflowing,
        lost=frozenset({"spool_expired"}), options=("--spool-max-age", "1min"),
    ),
    Fault("a flipped bit in a segment", "broker", partial(damaged, how=flip_segment),
        lost=DAMAGED, says=("spool_damaged",), in_ci=True,
    ),
    Fault("a flipped bit in a sidecar", "broker", partial(damaged, how=flip_sidecar)),
    Fault(
        "a flipped bit in the checkpoint", "broker", partial(damaged, how=flip_checkpoint),
        says=("spool_checkpoint_damaged",),
    ),
    Fault("a sidecar is missing", "broker", partial(damaged, how=remove_sidecar)),
    Fault("the checkpoint is missing", "broker", partial(damaged, how=remove_checkpoint)),
    Fault(
        "a torn last batch", "broker", partial(damaged, how=truncate_segment, kill=True),
        killed=1, says=("spool_torn_batch",),
    ),
]  # fmt: skip
