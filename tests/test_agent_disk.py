"""A recording on a disk that fails: the run ends with an error."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from support import failing_fsync
from support.agent import FLOWSTREAM, Agent, audited
from support.outcomes import Account, make_batch

from flowstream.sink import open_sink

LOST = (sys.executable, str(Path(failing_fsync.__file__)))
TEXT = "the recording may not be durable: Input/output error"


def test_a_run_ends_with_status_1(recording_url):
    options = ("-i", "lo", "--mode", "generic", "--duration", 1, "--sink", recording_url)
    with Agent(*options, before=LOST) as agent:
        assert agent.wait() == 1, agent.output()
        (fault,) = agent.logs("a stage failed")
        errors = {each["error"] for each in agent.logs("recording_not_durable")}
        assert errors == {"Input/output error"}
    assert fault["error"] == f"{recording_url}: {TEXT}"
    # The disk refused, but the file system has everything.
    assert audited(recording_url)


@pytest.mark.anyio
async def test_a_copy_of_topics_ends_with_status_1(tmp_path, broker):
    account = Account()
    sink = open_sink(broker.url, account, partitions=1, record_format="json")
    await sink.start(["disk"])
    await sink.send(make_batch("disk", 0, 0, 101))
    await sink.close(60)
    assert account.settled == 101
    command = [*LOST, *FLOWSTREAM, "record", broker.url]
    command += ["--topic", "disk", "--to", str(tmp_path / "copy")]
    done = await anyio.run_process(command, check=False)
    assert done.returncode == 1, done.stderr
    assert TEXT in done.stderr.decode()
