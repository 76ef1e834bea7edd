"""SIGHUP reloads the configuration of a real agent, all or nothing; without a file it ends it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.agent import (
    Agent,
    audited,
    carried,
    delivered,
    finals_of,
    last_counters,
    on,
    quiet,
    records_of,
)
from support.traffic import load, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Interface

PACKETS = 10_007
FLOWS = 101


class Configured:
    """An agent with a configuration file that can be replaced."""

    def __init__(self, file: Path, agent: Agent) -> None:
        self.file, self.agent = file, agent

    def write(self, text: str) -> None:
        write(self.file, text)

    def hang_up(self, event: str = "reloaded") -> dict[str, Any]:
        """Send SIGHUP; return the log record that answers it."""
        before = len(self.agent.logs(event))
        self.agent.signal(signal.SIGHUP)
        assert wait_until(lambda: len(self.agent.logs(event)) > before), self.agent.output()
        return self.agent.logs(event)[-1]

    def reload(self, text: str) -> dict[str, Any]:
        """Replace the file; return what the reload has changed."""
        self.write(text)
        return self.hang_up()["changes"]


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file by renaming."""
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.rename(file)


@contextmanager
def configured(
    place: Path, device: Interface, url: str, text: str = "", mode: int = 0o644
) -> Iterator[Configured]:
    """An agent that publishes; the sink and the interface are the command line's."""
    file = place / "flowstream.toml"
    write(file, text, mode)
    with Agent(*on(device), "--sink", url, "--config", file) as agent:
        yield Configured(file, agent.publishing())


def rhythms(url: str) -> list[tuple[float, float]]:
    """Interval and period in seconds that the counters records name, one after another."""
    found: list[tuple[float, float]] = []
    for each in records_of(url, "flowstream.counters"):
        rhythm = (each.interval_ns / 1e9, each.counters_period_ns / 1e9)
        if rhythm not in found[-1:]:
            found.append(rhythm)
    return found


def test_interval_and_counters_period_take_effect_at_once(wire, place, recording_url):
    """The present interval and period, of an hour each, end with the reload."""
    sender, receiver = wire
    long = "interval = 3600\ncounters-period = 3600\n"
    with configured(place, receiver, recording_url, long) as site:
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert site.reload("interval = 0.2\ncounters-period = 0.3\n") == {
            "interval": {"old": 3600.0, "new": 0.2},
            "counters-period": {"old": 3600.0, "new": 0.3},
        }
        assert wait_until(lambda: carried(recording_url).total() == arrived)
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert wait_until(lambda: carried(recording_url).total() == arrived)
        assert site.reload(long) == {
            "interval": {"old": 0.2, "new": 3600.0},
            "counters-period": {"old": 0.3, "new": 3600.0},
        }
        site.agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived
    assert rhythms(recording_url) == [(3600, 3600), (0.2, 0.3), (3600, 3600)]
    assert last_counters(recording_url).table_swaps > 2


def test_the_limit_of_records_follows(wire, place, recording_url):
    sender, receiver = wire
    with configured(place, receiver, recording_url, "interval = 0.5\n") as site:
        arrived = delivered(sender, receiver, PACKETS, "-f", 1_009)
        assert site.reload("interval = 0.5\nmax-records = 20\n") == {
            "max-records": {"old": 100_000, "new": 20}
        }

        def aggregated() -> bool:
            nonlocal arrived
            arrived += delivered(sender, receiver, PACKETS, "-f", 1_009)
            counters = records_of(recording_url, "flowstream.counters")
            return any(each.stages["flows"].aggregated for each in counters)

        # From the next interval on.
        assert wait_until(aggregated)
        site.agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_the_level_of_the_log_follows(wire, place, recording_url):
    _, receiver = wire
    with configured(place, receiver, recording_url) as site:
        # What the new level leaves out is still said of the reload itself.
        assert site.reload('log-level = "error"') == {"log-level": {"old": "info", "new": "error"}}
        site.write('log-level = "info"\npartitions = 0\n')
        assert "partitions: 0 is not allowed" in site.hang_up("reload_failed")["error"]
        assert site.reload('log-level = "info"') == {"log-level": {"old": "error", "new": "info"}}
        assert site.reload('log-level = "debug"\n')
        site.agent.stop()
        assert site.agent.logs("ended")


def test_what_cannot_change_is_named_and_the_rest_applied(wire, place, recording_url):
    _, receiver = wire
    with configured(place, receiver, recording_url, "interval = 3600\n") as site:
        text = 'interval = 7\nmax-flows = 4099\nregistry = "http://u:s3cret@h:1"\nformat = "avro"'
        for changes in ({"interval": {"old": 3600.0, "new": 7.0}}, {}):
            assert site.reload(text) == changes
            said = site.agent.logs("reload_needs_restart")[-1]
            assert said["level"] == "warning"
            assert set(said["options"]) == {"format", "max-flows", "registry"}
        assert "s3cret" not in site.agent.output()
        assert site.reload("interval = 7") == {}
        assert len(site.agent.logs("reload_needs_restart")) == 2
        site.agent.stop()
    assert last_counters(recording_url).table_capacity == 131_072


INVALID = {
    "interval = 0.2\nsampling = 0": "sampling: 0 is not allowed; it takes a whole number from 1",
    'interval = 0.2\nmode = "fast"': "mode: 'fast' is not allowed",
    "interval = 0.2\ninterval = 0.3": "not valid TOML",
    "interval = 0.2\nformat = 'avro'": "format: avro can only be read with its schema",
    "interval = 0.2\n[kafka]\nclient.rack = 'a'": "kafka.client.rack: has no effect on",
    "": "has no option; replace it by a complete file",
}


def test_a_mistake_changes_nothing(wire, place, recording_url):
    sender, receiver = wire
    long = "interval = 3600\n"
    with configured(place, receiver, recording_url, long) as site:
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        for text, error in INVALID.items():
            site.write(text)
            said = site.hang_up("reload_failed")
            assert error in said["error"]
            remedy = "nothing has changed: correct the file and send SIGHUP again"
            assert (said["level"], said["remedy"]) == ("error", remedy)
        assert site.reload(long + "# corrected\n") == {}
        site.agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived
    assert rhythms(recording_url) == [(3600, 1)]
    # Neither an interval nor its end came in between.
    assert last_counters(recording_url).table_swaps <= 2


def test_files_that_are_gone_or_no_files_change_nothing(wire, place, recording_url):
    _, receiver = wire
    with configured(place, receiver, recording_url, "interval = 7") as site:
        site.file.unlink()
        assert "cannot be read: No such file" in site.hang_up("reload_failed")["error"]
        os.mkfifo(site.file)
        assert "Is a named pipe" in site.hang_up("reload_failed")["error"]
        site.file.unlink()
        site.file.write_bytes(b"#" * (2 << 20))
        assert "exceeds the 1 MiB limit" in site.hang_up("reload_failed")["error"]
        assert site.reload("interval = 11") == {"interval": {"old": 7.0, "new": 11.0}}
        site.agent.stop()


def test_a_file_that_the_agents_user_cannot_read_is_told_at_the_start(wire, place, recording_url):
    _, receiver = wire
    with configured(place, receiver, recording_url, "interval = 7", mode=0o600) as site:
        (said,) = site.agent.logs("reload_impossible")
        assert said["error"] == (f"{site.file}: the user nobody cannot read it: Permission denied")
        assert said["remedy"] == (
            f"setfacl -m u:nobody:r {site.file}, and :x for the directories above"
        )
        assert "cannot be read: Permission denied" in site.hang_up("reload_failed")["error"]
        # The remedy is one.
        site.file.chmod(0o604)
        assert site.hang_up()["changes"] == {}
        site.agent.stop()


def test_a_directory_that_the_agents_user_cannot_enter(wire, place, recording_url):
    _, receiver = wire
    inner = place / "etc"
    inner.mkdir(mode=0o700)
    with configured(inner, receiver, recording_url, "interval = 7") as site:
        assert site.agent.logs("reload_impossible")
        assert "Permission denied" in site.hang_up("reload_failed")["error"]
        site.agent.stop()


def test_a_readable_file_is_not_warned_of(wire, place, recording_url):
    _, receiver = wire
    with configured(place, receiver, recording_url, "interval = 7") as site:
        assert not site.agent.logs("reload_impossible")
        site.agent.stop()


@pytest.mark.parametrize("delay_ms", [0, 5, 20, 50, 100, 150, 200, 300, 500])
def test_a_reload_that_comes_while_it_starts_is_made_later(wire, place, recording_url, delay_ms):
    """From the moment on that the file was read: before, SIGHUP ends a process."""
    _, receiver = wire
    file = place / "flowstream.toml"
    write(file, "interval = 7")
    with Agent(*on(receiver), "--sink", recording_url, "--config", file) as agent:
        assert wait_until(lambda: holds_back(agent.pid))
        time.sleep(delay_ms / 1000)
        write(file, "interval = 11")
        agent.signal(signal.SIGHUP)
        assert agent.saw("reloaded", 60), agent.output()
        assert agent.logs("reloaded")[-1]["changes"] in ({}, {"interval": {"old": 7, "new": 11}})
        agent.publishing().stop()
    assert last_counters(recording_url).interval_ns == 11_000_000_000


def holds_back(pid: int) -> bool:
    """Whether a process blocks SIGHUP, or catches it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("Sig")]
    return any(int(mask, 16) & 1 for mask in masks if "/" not in mask)


def test_many_reloads_in_a_row_end_with_the_last_file(wire, place, recording_url):
    sender, receiver = wire
    with configured(place, receiver, recording_url, "interval = 1") as site:
        arrived = 0
        for number in range(60):
            write(site.file, f"interval = {number % 7 + 1}\nsampling = 1\n")
            site.agent.signal(signal.SIGHUP)
            if number % 20 == 0:
                arrived += delivered(sender, receiver, FLOWS, "-f", FLOWS)
        write(site.file, "interval = 13")
        site.agent.signal(signal.SIGHUP)

        def in_force() -> bool:
            logs = site.agent.logs("reloaded")
            return any(each["changes"].get("interval", {}).get("new") == 13 for each in logs)

        assert wait_until(in_force)
        assert not site.agent.logs("reload_failed")
        site.agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived
    assert last_counters(recording_url).interval_ns == 13_000_000_000


def test_a_reload_during_the_end_does_not_end_the_process_at_once(wire, place, broker_factory):
    sender, receiver = wire
    broker = broker_factory()
    with configured(place, receiver, broker.url, "shutdown-timeout = 15") as site:
        broker.stop(signal.SIGKILL)
        delivered(sender, receiver, PACKETS, "-f", FLOWS)
        site.agent.signal(signal.SIGTERM)
        assert site.agent.saw("stopping", 60)
        assert site.hang_up("reload_failed")["error"] == "the run is ending"
        # An orderly end, but without a broker for the final counters.
        assert site.agent.wait() == 1
        assert site.agent.logs("ended")
        assert not site.agent.logs("second signal: ending at once, unpublished records are lost")
        assert "Traceback" not in site.agent.output()


def test_a_reload_while_connecting(wire, place, tmp_path):
    """Without a broker the agent waits for one; it follows the configuration all the same."""
    _, receiver = wire
    file = place / "flowstream.toml"
    write(file, "interval = 7\n")
    sink = "kafka://127.0.0.1:9"
    with Agent(*on(receiver), "--sink", sink, "--config", file) as agent:
        assert agent.saw("attached", 60)
        write(file, "interval = 11\n")
        agent.signal(signal.SIGHUP)
        assert agent.saw("reloaded", 60), agent.output()
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 1


def test_a_signal_still_ends_the_run_in_order(wire, place, recording_url):
    sender, receiver = wire
    with configured(place, receiver, recording_url, "interval = 3600") as site:
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        assert site.hang_up()["changes"] == {}
        site.agent.stop()
        assert [each["signal"] for each in site.agent.logs("stopping")] == ["SIGTERM"]
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_interfaces_that_are_chosen_and_left_out(pairs, place, recording_url):
    (sender, first), (other_sender, second) = pairs
    file = place / "flowstream.toml"
    choice = 'interface = ["{}"]\ninterval = 0.2\n'.format
    write(file, choice(first.name))
    where = ("--netns", first.namespace.name, "--sink", recording_url)
    with Agent(*where, "--config", file) as agent:
        site = Configured(file, agent.publishing())
        arrived = {first.index: delivered(sender, first, PACKETS, "-f", FLOWS)}
        assert site.reload(choice(second.name)) == {
            "interface": {"old": [first.name], "new": [second.name]}
        }
        assert wait_until(lambda: len(agent.logs("attached")) == 2), agent.output()
        assert [each["interface"] for each in agent.logs("interface_left_out")] == [first.name]
        # No packet of it is observed any more, and its final counters do not wait for the end.
        delivered(sender, first, PACKETS, "-f", FLOWS)
        assert wait_until(
            lambda: [each.if_index for each in finals_of(recording_url)] == [first.index]
        )
        arrived[second.index] = delivered(other_sender, second, PACKETS, "-f", FLOWS)
        site.write(choice("absent"))
        assert site.hang_up()["changes"]["interface"]["new"] == ["absent"]
        assert agent.saw("no_interface_matches", 60)
        (doubtful,) = agent.logs("reload_doubtful")
        assert doubtful["reason"].startswith("no interface 'absent'; there are: ")
        assert {first.name, second.name} <= {*doubtful["reason"].replace(",", "").split()}
        site.write('interface-kind = ["veth"]\ninterval = 0.2\n')
        assert site.hang_up()["changes"] == {
            "interface": {"old": ["absent"], "new": []},
            "interface-kind": {"old": [], "new": ["veth"]},
        }
        assert wait_until(lambda: len(agent.logs("attached")) == 4), agent.output()
        for wire in pairs:
            arrived[wire.receiver.index] += delivered(*wire, PACKETS, "-f", FLOWS)
        agent.stop()
    found = {each["if_index"]: each for each in audited(recording_url)}
    assert {index: each["seen"]["packets"] for index, each in found.items()} == arrived
    assert all(each["flows"] == each["seen"] for each in found.values())


@pytest.mark.parametrize("program", ["flow", "counter"])
def test_another_sampling_rate_under_traffic(wire, place, recording_url, program):
    sender, receiver = wire
    text = f'program = "{program}"\ninterval = 1\nsampling = {{}}\n'.format
    with configured(place, receiver, recording_url, text(1)) as site:
        before = receiver.statistic("rx_packets")
        old = 1
        with load(sender, FLOWS):
            for count, new in enumerate((7, 3, 1, 11), 1):
                assert site.reload(text(new)) == {"sampling": {"old": old, "new": new}}
                old = new
                assert wait_until(lambda: len(site.agent.logs("resampled")) == count)  # noqa: B023
                seen = receiver.statistic("rx_packets")
                assert wait_until(lambda: receiver.statistic("rx_packets") > seen + PACKETS)  # noqa: B023
        arrived = quiet(receiver) - before
        (attached,) = site.agent.logs("attached")
        site.agent.stop()
    (interface,) = audited(recording_url)
    assert set(interface["difference"].values()) == {0}
    # None was missed while a program took the place of another.
    assert interface["seen"]["packets"] == arrived
    assert interface["no_flow"]["sampled_out"]["packets"] > 0
    assert last_counters(recording_url).program_id != attached["program_id"]
