"""Runs that are killed at every step that the kernel sees, under traffic: no packet is missed.

Each run does all that there is to do: it opens what earlier ones have left, makes maps and
pins, takes the link over, freezes and removes the earlier ones. Two are killed before their
first step and a third one tidies up, the next two are killed before their second step, and
so on, until one gets to its end.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support.pinned import PinnedRun
from support.traffic import generator, wait_until

from flowstream.kernel import libbpf
from flowstream.kernel.link import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.net import Interface

RATE = 100_000
CALLS = (
    *("bpf_map_create", "bpf_prog_load", "bpf_link_create", "bpf_link_update", "bpf_obj_pin"),
    *("bpf_obj_get", "bpf_map_update_elem"),
)
FILES = ("mkdir", "rename", "unlink", "rmdir")
processes = multiprocessing.get_context("fork")


@contextlib.contextmanager
def traffic(sender: Interface) -> Iterator[None]:
    argv = (generator(), "-i", sender.name, "-n", 10**9, "-f", 1009, "-p", RATE)
    flood = sender.namespace.popen(*map(str, argv), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        flood.kill()
        flood.wait()


def killed_at(step: int, calls: Iterator[int], call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)

    return counted


def one_run(
    place: Path, number: int, step: int, interface: Interface, mode: Mode, closed: Path
) -> None:
    """Body of a process, killed before ``step``."""
    calls = itertools.count()
    library = libbpf.library()
    for name in CALLS:
        setattr(library, name, killed_at(step, calls, getattr(library, name)))
    for name in FILES:
        setattr(os, name, killed_at(step, calls, getattr(os, name)))
    with PinnedRun(place, number) as run:
        run.attach(interface, mode)
        for earlier in run.earlier:
            earlier.freeze()
        for earlier in run.earlier:
            for code in earlier.codes:
                seen = earlier.counters(code).seen.packets
                # Written again with the same number if this run is killed before it is removed.
                (closed / f"{earlier.epoch}-{code}").write_text(str(seen))
            earlier.remove()


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_killed_at_any_step_a_run_leaves_what_the_next_one_closes(bpffs, tmp_path, pairs, mode):
    sender, receiver = pairs[0]
    place, closed = bpffs / "flowstream", tmp_path / "closed"
    closed.mkdir()
    before = receiver.statistic("rx_packets")
    with PinnedRun(place) as run:
        run.attach(receiver, mode)
    numbers = itertools.count(1)

    def ends(step: int) -> bool:
        arguments = (place, next(numbers), step, receiver, mode, closed)
        process = processes.Process(target=one_run, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode == 0

    with traffic(sender):
        for step in itertools.count():
            killed = [not ends(step) for _ in range(2)]
            assert ends(-1)
            if not any(killed):
                break
    with PinnedRun(place, next(numbers)) as run:
        (last,) = run.earlier
        (link,) = last.links.values()
        received = receiver.statistic("rx_packets")
        assert wait_until(lambda: receiver.statistic("rx_packets") == received)
        link.detach()
        last.freeze()
        (code,) = last.codes
        seen = [int(file.read_text()) for file in closed.iterdir()]
        seen.append(last.counters(code).seen.packets)
        last.remove()
    assert sum(seen) == receiver.statistic("rx_packets") - before
    assert step > 40
    # Runs that were killed after they had taken the link over.
    assert sum(packets > 0 for packets in seen) > step + 10
