"""SIGHUP reloads the configuration of runs that leave their programs to the next one."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from support.chains import Chain, directory, sums
from support.traffic import load, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.agent import Agent

FLOWS = 1_009
PPS = 50_000


@pytest.fixture
def file(place) -> Path:
    """A configuration that every user can read."""
    return place / "flowstream.toml"


def reload(agent: Agent, file: Path, sampling: int) -> None:
    """Change the sampling rate; return once a program of it runs."""
    before = len(agent.logs("resampled"))
    file.write_text(f"sampling = {sampling}\n", encoding="utf-8")
    agent.signal(signal.SIGHUP)
    assert wait_until(lambda: len(agent.logs("resampled")) > before), agent.output()
    assert agent.logs("resampled")[-1]["sampling"] == sampling


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_another_sampling_rate_and_the_next_run(wire, bpffs, recording_url, file, end):
    """Under load: the chain of runs has every packet that the interface received."""
    with directory(bpffs, "pins") as pins:
        chain = Chain(wire, recording_url, pins, "--user", "root", "--config", file)
        file.write_text("sampling = 3\n", encoding="utf-8")
        with chain.agent() as agent:
            agent.publishing()
            with load(chain.sender, FLOWS, PPS):
                reload(agent, file, 7)
                reload(agent, file, 2)
                agent.signal(end)
                assert agent.wait() == (-end if end is signal.SIGKILL else 0)
                with chain.agent() as following:
                    following.publishing()
                    reload(following, file, 5)
                    following.stop()
        found = sums(runs := chain.close())
        assert found["seen"] == chain.arrived
        sampled_out = [
            its["no_flow"]["sampled_out"]["packets"] for run in runs for its in run["interfaces"]
        ]
        assert all(sampled_out)
        accounted = found["published"] + found["lost"] + found["killed"] + sum(sampled_out)
        assert accounted == found["seen"]
