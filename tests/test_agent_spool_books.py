"""Books over a chain of runs: what a later run drops of an earlier one's records is counted."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from support.agent import Agent, audit, delivered, on, records_of
from support.traffic import wait_until

from flowstream.segments.retention import Retention
from flowstream.segments.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

PACKETS = 80_021
FLOWS = 40_009
OPTIONS = ("--interval", 0.2, "--format", "msgpack")


def size(spool: Path) -> int:
    """Octets of the records on disk."""
    return sum(path.stat().st_size for path in spool.glob("*/*.log"))


def has_books(spool: Path) -> bool:
    """Whether the checkpoint has the run's last counters, as it has each second."""
    return b"overflow_lost" in (spool / "checkpoint").read_bytes()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_later_run_drops_records_of_an_earlier_one_for_room(wire, broker_factory, tmp_path, how):
    sender, receiver = wire
    broker = broker_factory()
    spool = tmp_path / "state" / "spool"
    options = (*on(receiver), "--sink", broker.url, "--spool", spool, *OPTIONS)
    with Agent(*options) as agent:
        agent.publishing()
        broker.stop(signal.SIGKILL)
        # Each makes its own records: together more than the next run has room for.
        arrived = sum(delivered(sender, receiver, PACKETS, "-f", FLOWS) for _ in range(4))
        # Those on their way to the cluster follow once they are given up, after 30 s.
        enough = wait_until(lambda: has_books(spool) and size(spool) > 1_200_000, 120)
        assert enough, agent.output()
        agent.signal(how)
        agent.wait()
    with Agent(*options, "--spool-size", "1MB") as agent:
        agent.publishing()
        # Not before there was no room: the drain makes some.
        assert agent.saw("spool_records_lost", 60), agent.output()
        broker.start()
        assert agent.saw("spool_drained", 60)
        agent.stop()
    status, result = audit(broker.url)
    first, second = sorted(result["runs"], key=lambda run: run["agent_epoch"])
    (interface,) = first["interfaces"]
    dropped = interface["losses"]["spool_full"]
    # The oldest may be announcements, which have no packets.
    assert dropped["records"] > 0
    assert second["problems"] == []
    counters = [
        record
        for record in records_of(broker.url, "flowstream.counters")
        if record.agent_epoch == first["agent_epoch"]
    ]
    # Its own ones, out of the spool, may come after the amended one.
    last = max(counters, key=lambda record: record.seq)
    assert last.losses["spool_full"].packets == dropped["packets"]
    assert last.final == (how is signal.SIGTERM)
    if how is signal.SIGKILL:
        assert "did not end cleanly" in first["problems"][0]
        assert "contradict" not in str(first["problems"])
        assert "backwards" not in str(first["problems"])
        return
    assert (status, first["problems"]) == (0, [])
    assert interface["seen"]["packets"] == arrived
    assert interface["flows"]["packets"] + dropped["packets"] == arrived


def test_books_of_an_earlier_run_are_decoded_without_privileges(wire, tmp_path):
    _, receiver = wire
    directory = tmp_path / "state" / "spool"
    with Spool(directory, retention=Retention(), owner=(65534, 65534)) as spool:
        spool.open({"flowstream.flows": 1})
        spool.save({1_024: [b"damaged"]})
    sink = "kafka://127.0.0.1:1"
    with Agent(*on(receiver), "--sink", sink, "--spool", directory, *OPTIONS) as agent:
        agent.publishing()
        agent.stop()
        events = [each["event"] for each in agent.logs()]
    assert events.index("attached") < events.index("spool_books_damaged")
