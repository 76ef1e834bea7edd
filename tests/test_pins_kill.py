"""Runs that are killed at every step that the kernel sees, under traffic: no packet is missed.

Each run does all that there is to do: it opens what earlier ones have left, makes maps and
pins, takes the link over, freezes and removes the earlier ones. Two are killed before their
first step and a third one tidies up, the next two are killed before their second step, and
so on, until one gets to its end.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.agent import quiet
from support.pinned import PinnedRun
from support.traffic import load

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.attacher import attaching
from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.errors import KernelError
from flowstream.host.privileges import User
from flowstream.kernel import libbpf
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.net import Interface

RATE = 100_000
FLOWS = 1_009
CALLS = (
    *("bpf_map_create", "bpf_prog_load", "bpf_link_create", "bpf_link_update", "bpf_obj_pin"),
    *("bpf_obj_get", "bpf_map_update_elem"),
)
FILES = ("mkdir", "rename", "unlink", "rmdir")
ENDED = 7
"""Status of a process that ended all at once."""
processes = multiprocessing.get_context("fork")


def end_before(step: int, end: Callable[[], object]) -> None:
    """Let this process end before the call that the kernel sees as its step of that number."""
    calls = itertools.count()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if next(calls) == step:
                end()
            return call(*arguments, **options)

        return wrapped

    library = libbpf.library()
    for owner, names in ((library, CALLS), (os, FILES)):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Stage(NamedTuple):
    """Where the runs take place: ``closed`` gets what those that are removed have seen."""

    place: Path
    closed: Path
    interface: Interface
    mode: Mode
    direction: int

    def begin(self, run: PinnedRun, **options: Any) -> None:
        """Let a run attach, or take over."""
        run.attach(self.interface, self.mode, direction=self.direction, **options)

    @property
    def passed(self) -> int:
        """Packets that the interface has received, or tried to send, so far."""
        names = ("tx_packets", "tx_dropped") if self.direction == EGRESS else ("rx_packets",)
        return sum(map(self.interface.statistic, names))


def whole_run(stage: Stage, number: int, step: int) -> None:
    """Body of a process: a run that is killed before ``step``."""
    end_before(step, kill)
    with PinnedRun(stage.place, number) as run:
        stage.begin(run)
        close_earlier(run, stage)


def attachers_run(stage: Stage, number: int, step: int) -> None:
    """Body of a process: a run whose attacher ends before ``step``."""
    real = attaching.run

    def ending(sock: Any) -> None:
        # Signals are among the calls that it may not make.
        end_before(step, lambda: os._exit(ENDED))
        real(sock)

    attaching.run = ending  # type: ignore[assignment]
    with Process() as process, PinnedRun(stage.place, number) as run:
        try:
            with stage.interface.namespace.path.open() as place:
                attacher = Attacher(process, run.probe, User(0, 0), [place.fileno()])
            stage.begin(run, attach=attacher.attach)
        except KernelError as err:
            if "has ended" in str(err):
                os._exit(ENDED)
            raise
        close_earlier(run, stage)


def close_earlier(run: PinnedRun, stage: Stage) -> None:
    for earlier in run.earlier:
        earlier.freeze()
    for earlier in run.earlier:
        for code in earlier.codes:
            seen = earlier.counters(code).seen.packets
            # Written again with the same number if this run is killed before it is removed.
            (stage.closed / f"{earlier.epoch}-{code}").write_text(str(seen))
        earlier.remove()


def ends(body: Callable[[Stage, int, int], None], *arguments: Any) -> bool:
    """Whether a run gets to its end."""
    process = processes.Process(target=body, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode in (0, ENDED, -signal.SIGKILL)
    return process.exitcode == 0


@pytest.fixture(
    params=[(Mode.NATIVE, INGRESS), (Mode.GENERIC, INGRESS), (Mode.TCX, EGRESS)],
    ids=["native", "generic", "tcx"],
)
def stage(request, bpffs, tmp_path, pairs) -> Stage:
    closed = tmp_path / "closed"
    closed.mkdir()
    mode, direction = request.param
    sender, receiver = pairs[0]
    interface = sender if direction == EGRESS else receiver
    return Stage(bpffs / "flowstream", closed, interface, mode, direction)


BODIES = pytest.mark.parametrize(
    ("body", "least"), [(whole_run, 30), (attachers_run, 5)], ids=["agent", "attacher"]
)


@BODIES
def test_killed_at_any_step_a_run_leaves_what_the_next_one_closes(stage, pairs, body, least):
    before = stage.passed
    with PinnedRun(stage.place) as run:
        stage.begin(run)
    numbers = itertools.count(1)
    with load(pairs[0][0], FLOWS, RATE, through_tc=stage.mode is Mode.TCX):
        for step in itertools.count():
            ended = [ends(body, stage, next(numbers), step) for _ in range(2)]
            assert ends(whole_run, stage, next(numbers), -1)
            if all(ended):
                break
    with PinnedRun(stage.place, next(numbers)) as run:
        (last,) = run.earlier
        (link,) = last.links.values()
        quiet(pairs[0][1])
        passed = stage.passed - before
        link.detach()
        last.freeze()
        (code,) = last.codes
        seen = [int(file.read_text()) for file in stage.closed.iterdir()]
        seen.append(last.counters(code).seen.packets)
        last.remove()
    assert sum(seen) == passed
    assert step >= least
    # Also runs that were killed after they had taken the link over.
    assert sum(packets > 0 for packets in seen) > step + 1


@BODIES
def test_killed_at_any_step_of_its_first_attaching_a_run_is_in_nobodys_way(stage, body, least):
    numbers = itertools.count()
    for step in itertools.count():
        ended = ends(body, stage, next(numbers), step)
        with PinnedRun(stage.place, next(numbers)) as run:
            stage.begin(run)
            for earlier in run.earlier:
                earlier.freeze()
                earlier.remove()
            run.attachment.detach()
            run.generation.remove()
        if ended:
            break
    assert step >= min(least, 20)
