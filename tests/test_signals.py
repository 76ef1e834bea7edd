"""Signals that end a run, at any time of its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

AGENT = """if True:
    import asyncio, os, signal, sys, uvloop
    from flowstream.agent.signals import Signals

    def send():
        os.kill(os.getpid(), signal.SIGTERM)

    async def run(signals, moment):
        if moment == "in the loop":
            send()
        stopping = asyncio.Event()
        signals.deliver(stopping.set)
        if moment == "later":
            send()
        await asyncio.wait_for(stopping.wait(), 30)
        # What the loop has noted is that first one.
        while signals._noted.total():
            await asyncio.sleep(0.01)
        print("ending in order", flush=True)
        send()
        await asyncio.sleep(30)

    signals = Signals()
    signals.catch()
    if sys.argv[1] == "before":
        send()
    uvloop.run(run(signals, sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["before", "in the loop", "later"])
def test_the_first_signal_ends_in_order_and_the_second_at_once(moment):
    """One that arrives while the loop starts counts once."""
    command = [sys.executable, "-c", AGENT, moment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    first, between, second = done.stdout.splitlines()
    assert "stopping" in first
    assert between == "ending in order"
    assert "second signal: ending at once" in second
