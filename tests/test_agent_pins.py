"""``flowstream run --pin``: what it refuses, and what it finds when it starts again."""

from __future__ import annotations

import os
import re
import shutil
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from support.agent import Agent, delivered, flowstream, on, records_of
from support.attached import attacher_of
from support.bpffs import mounted
from support.chains import Chain, closed, directory, generations, published, sums
from support.net import Namespace, namespace, veth_pair
from support.pinned import ROOT, PinnedRun
from support.traffic import wait_until
from support.users import open_to_all

from flowstream.accounting import books
from flowstream.kernel import libbpf
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.generation import BOOKS, Generation
from flowstream.kernel.link import mode_of
from flowstream.kernel.pin_directory import PinDirectory
from flowstream.kernel.pinned_link import PinnedLink
from flowstream.kernel.target import Target
from flowstream.records import CountersRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKETS = 10_007


@pytest.fixture
def chain(bpffs: Path, wire, recording_url) -> Iterator[Chain]:
    with directory(bpffs, "pins") as pins:
        yield Chain(wire, recording_url, pins, "--user", "root")


def leave(chain: Chain, *options: str | float) -> None:
    """Let a run begin and end."""
    with chain.agent(*options) as agent:
        agent.publishing()
        agent.stop()


def refusal(chain: Chain, *options: str | float) -> str:
    """The one line of an agent that does not start."""
    with chain.agent(*options) as agent:
        assert agent.wait() == 1
        assert "Traceback" not in agent.output()
        (line,) = [each for each in agent.output().splitlines() if "error: " in each]
    return line.removeprefix("flowstream: error: ")


def test_another_mode_is_refused_and_auto_takes_any(chain):
    leave(chain, "--mode", "generic")
    arrived = delivered(chain.sender, chain.receiver, PACKETS)
    before = generations(chain.pins)
    text = refusal(chain, "--mode", "native")
    assert re.search("interface far is observed in mode generic: use --mode generic, or ", text)
    assert "flowstream detach" in text
    # Also where a pattern chooses it: this run's own attempt to attach comes too late.
    assert refusal(chain, "--mode", "native", "-i", "f*").startswith(text.partition(": ")[0])
    # Services start again and again: nothing is left in the kernel each time.
    assert generations(chain.pins) == before
    runs = chain.close()
    assert sums(runs)["published"] == arrived


def test_a_program_that_was_replaced_meanwhile_ends_the_chain(chain):
    """What the other program saw is in no run: the two runs are no chain without a gap."""
    leave(chain)
    (epoch,) = generations(chain.pins)
    with (
        PinDirectory(str(chain.pins), ROOT) as pins,
        pins.generation(int(epoch)) as generation,
        generation_link(generation) as link,
        chain.receiver.namespace.entered(),
        FlowProbe(max_flows=101) as other,
        ExitStack() as stack,
    ):
        program, _ = other.load(Target.named(chain.receiver.name), stack)
        assert libbpf.library().bpf_link_update(link.fd, program.fd, None) == 0
        replaced = program.id
    delivered(chain.sender, chain.receiver, 101)
    with chain.agent() as agent:
        agent.publishing()
        closed(agent)
        arrived = delivered(chain.sender, chain.receiver, PACKETS)
        agent.stop()
        (warning,) = agent.logs("program_replaced")
        assert (warning["previous_epoch"], warning["program_id"]) == (int(epoch), replaced)
        assert agent.logs("took_over") == []
    last = max(
        (each for each in records_of(chain.url, "flowstream.counters")),
        key=lambda each: (each.agent_epoch, each.seq),
    )
    assert isinstance(last, CountersRecord)
    assert (last.previous_epoch, last.seen_packets) == (0, arrived)


@pytest.mark.parametrize("what", ["directory", "link"])
def test_programs_whose_pins_were_removed_are_not_said_to_go_on(chain, what):
    with chain.agent() as agent:
        agent.publishing()
        if what == "directory":
            shutil.rmtree(chain.pins)
        else:
            (link,) = chain.pins.glob("*/link-*")
            link.unlink()
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 1
        assert agent.logs("pinned") == []
        assert "pins of this run were removed: its programs end with it" in agent.output()
        (attached,) = agent.logs("attached")
    with chain.receiver.namespace.entered():
        # The kernel releases a link in its own time.
        assert wait_until(lambda: mode_of(chain.receiver.index, attached["program_id"]) is None)


def test_a_run_that_observes_nothing_says_so(chain):
    where = ("--netns", chain.receiver.namespace.name, "-i", "no-such-*", "--user", "root")
    with Agent("--sink", chain.url, "--pin", str(chain.pins), *where) as agent:
        agent.publishing()
        agent.stop()
        assert (agent.logs("pinned"), len(agent.logs("nothing_pinned"))) == ([], 1)


def generation_link(generation: Generation) -> PinnedLink:
    (code,) = generation.codes("link")
    return PinnedLink(generation, code)


def test_an_interface_that_another_program_took_does_not_end_a_run_that_took_over(
    bpffs, recording_url
):
    """Each start would leave one more run to be closed in the kernel's memory."""
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there, names=("near0", "far0")) as first,
        veth_pair(here, there, names=("near1", "far1")) as second,
        directory(bpffs, "pins") as pins,
        FlowProbe(max_flows=101) as other,
    ):
        chain = Chain(first, recording_url, pins, "--user", "root")
        leave(chain)
        with there.entered(), other.attach(second.receiver.name):
            arrived = delivered(*first, PACKETS)
            with chain.agent("-i", "far1") as agent:
                agent.publishing()
                closed(agent)
                (failed,) = agent.logs("attach_failed")
                assert "far1 (native): program xdp_flow" in failed["error"]
                agent.stop()
            assert len(generations(pins)) == 1
        assert published(recording_url) == arrived


def test_a_second_agent_is_refused(chain):
    with chain.agent() as agent:
        agent.publishing()
        text = refusal(chain)
        assert text == f"{chain.pins}: another agent uses this directory: stop it first"
        agent.stop()


def test_another_user_is_refused_with_both_named(chain, bpffs):
    open_to_all(bpffs)
    leave(chain)
    before = generations(chain.pins)
    text = refusal(chain, "--user", "nobody")
    assert "belongs to user 0, and the agent runs as user 65534: use the same --user" in text
    assert generations(chain.pins) == before


def test_the_agent_needs_no_privilege_for_its_pins(wire, bpffs, recording_url):
    """The user that it becomes owns them; the directories above are root's alone."""
    bpffs.parent.chmod(0o700)
    with directory(bpffs, "pins") as pins:
        chain = Chain(wire, recording_url, pins, "--user", "nobody")
        leave(chain)
        arrived = delivered(chain.sender, chain.receiver, PACKETS)
        with chain.agent() as agent:
            agent.publishing()
            closed(agent)
            arrived += delivered(chain.sender, chain.receiver, PACKETS)
            agent.stop()
        assert pins.stat().st_uid == 65534
        assert published(recording_url) == arrived
        assert flowstream("detach", pins).returncode == 0


def test_other_places_are_refused_before_anything_is_made(chain, tmp_path, bpffs):
    def at(place: Path) -> str:
        with Agent(*on(chain.receiver), "--sink", chain.url, "--pin", place) as agent:
            assert agent.wait() == 1
            return agent.output()

    assert f"{tmp_path} is in a file system of type " in at(tmp_path / "pins")
    (bpffs / "there").mkdir(0o700)
    (bpffs / "link").symlink_to("there")
    assert f"{bpffs}/link: Not a directory" in at(bpffs / "link")
    assert f"{bpffs}/no/pins: the directory {bpffs}/no does not exist" in at(bpffs / "no" / "pins")
    assert not chain.recording.exists()


def test_pins_of_another_version_are_refused_and_detach_removes_them(chain, capsys):
    with PinnedRun(chain.pins) as run:
        run.attach(chain.receiver)
        run.generation.unpin("slot")
        with BooksMap() as other:
            run.generation.pin("slot", other.fd)
    text = refusal(chain)
    assert "left by another version of flowstream: map active_table: " in text
    assert text.endswith("remove it with flowstream detach")
    done = flowstream("detach", chain.pins)
    assert (done.returncode, done.stderr) == (0, "")
    leave(chain)


def test_books_of_another_run_are_refused_before_a_directory_is_made(chain, tmp_path):
    """Whatever else the agent's user runs can write to the map; the agent starts as root."""
    leave(chain)
    (epoch,) = generations(chain.pins)
    with PinDirectory(str(chain.pins), ROOT) as pins, pins.generation(int(epoch)) as generation:
        its = BooksMap.from_fd(generation.open(BOOKS))
    with its:
        found = books.read_header(its.octets(books.HEADER) or b"")
        before = generations(chain.pins)
        for changed, text in (
            ({"topic_prefix": f"{tmp_path}/made"}, "its books cannot be read: "),
            ({"agent_epoch": found.agent_epoch - 1024}, "its books are those of run "),
        ):
            its.put(books.HEADER, books.encode(replace(found, **changed)))
            assert text in refusal(chain)
            assert generations(chain.pins) == before
    assert [*tmp_path.glob("made*")] == []


def test_an_interface_that_is_not_chosen_any_more_is_detached(bpffs, recording_url):
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there, names=("near0", "far0")) as first,
        veth_pair(here, there, names=("near1", "far1")) as second,
        directory(bpffs, "pins") as pins,
    ):
        chain = Chain(first, recording_url, pins)
        with chain.agent("-i", "far1") as agent:
            agent.publishing()
            agent.stop()
        arrived = [delivered(*wire, PACKETS + n) for n, wire in enumerate((first, second))]
        with chain.agent() as agent:
            agent.publishing()
            closed(agent)
            (detached,) = agent.logs("earlier_link_detached")
            assert (detached["interface"], detached["netns"]) == ("far1", there.name)
            assert str(pins) in detached["link"]
            delivered(*second, 101)
            agent.stop()
        (run, _) = chain.runs()
        assert {each["if_name"]: each["flows"]["packets"] for each in run["interfaces"]} == {
            "far0": arrived[0],
            "far1": arrived[1],
        }


def test_an_interface_that_went_while_no_agent_ran_is_closed(bpffs, recording_url):
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there, names=("near0", "far0")) as first,
        directory(bpffs, "pins") as pins,
    ):
        chain = Chain(first, recording_url, pins)
        with veth_pair(here, there, names=("near1", "far1")) as second:
            with chain.agent("-i", "far1") as agent:
                agent.publishing()
                agent.stop()
            arrived = delivered(*second, PACKETS)
        (run,) = chain.close()
        assert [
            (each["if_name"], each["final"], each["flows"]["packets"])
            for each in run["interfaces"]
        ] == [("far0", True, 0), ("far1", True, arrived)]


def test_chains_go_on_in_several_namespaces_whatever_they_are_called(bpffs, recording_url):
    """The second run names them in another order: the numbers of their interfaces change."""
    with (
        namespace() as here,
        namespace() as red,
        namespace() as blue,
        veth_pair(here, red, names=("near0", "far")) as first,
        veth_pair(here, blue, names=("near1", "far")) as second,
        directory(bpffs, "pins") as pins,
    ):
        options = ("-i", "far", "--sink", recording_url, "--pin", pins, "--user", "root")
        arrived = 0

        def run(*places: Namespace) -> None:
            names = [option for each in places for option in ("--netns", each.name)]
            with Agent(*options, *names) as agent:
                agent.publishing()
                if arrived:
                    closed(agent)
                    assert len(agent.logs("took_over")) == 2
                agent.stop()

        run(red, blue)
        arrived += delivered(*first, PACKETS) + delivered(*second, PACKETS)
        run(blue, red)
        arrived += delivered(*first, 101) + delivered(*second, 103)
        run(red, blue)
        assert published(recording_url) == arrived


def test_links_that_a_run_had_no_time_to_take_over_stay(bpffs, recording_url):
    count = 12
    with ExitStack() as stack:
        here, there = stack.enter_context(namespace()), stack.enter_context(namespace())
        wires = [
            stack.enter_context(veth_pair(here, there, names=(f"near{n}", f"far{n}")))
            for n in range(count)
        ]
        pins = stack.enter_context(directory(bpffs, "pins"))
        options = (*on(*(wire.receiver for wire in wires)), "--sink", recording_url, "--pin", pins)
        with Agent(*options, "--user", "root") as agent:
            agent.publishing()
            agent.stop()
        taken, runs = count, 1
        while taken == count:
            # On a busy machine the signal may come when all are taken.
            runs += 1
            with Agent(*options, "--user", "root") as agent:
                assert agent.saw("took_over", 60)
                agent.stop()
                taken = len(agent.logs("took_over"))
                assert agent.logs("earlier_link_detached") == []
        arrived = sum(delivered(*wire, 1_009) for wire in wires)
        with Agent(*options, "--user", "root") as agent:
            agent.publishing()
            closed(agent, runs)
            assert len(agent.logs("took_over")) == count
            agent.stop()
        assert taken > 0
        assert published(recording_url) == arrived


def test_an_attacher_that_hangs_does_not_hold_up_the_run_after_a_killed_agent(chain):
    with chain.agent() as agent:
        agent.publishing()
        arrived = delivered(chain.sender, chain.receiver, PACKETS)
        os.kill(attacher_of(agent), signal.SIGSTOP)
        agent.signal(signal.SIGKILL)
        agent.wait()
    found = sums(chain.close())
    assert (found["seen"], found["lost"]) == (arrived, 0)
    assert 0 <= arrived - found["published"] <= found["killed"]


def test_a_killed_attacher_ends_the_run_and_the_chain_goes_on(chain):
    with chain.agent() as agent:
        agent.publishing()
        arrived = delivered(chain.sender, chain.receiver, PACKETS)
        os.kill(attacher_of(agent), signal.SIGKILL)
        assert agent.wait() == 1
        assert agent.logs("attacher_ended")
    arrived += delivered(chain.sender, chain.receiver, PACKETS)
    assert sums(chain.close()) == {
        "seen": arrived, "published": arrived, "lost": 0, "killed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_detach_counts_what_no_agent_published(chain, number):
    with chain.agent("--interval", 3600) as agent:
        agent.publishing()
        before = delivered(chain.sender, chain.receiver, PACKETS)
        refused = flowstream("detach", chain.pins)
        assert refused.returncode == 1
        assert "another agent uses this directory" in refused.stderr
        agent.signal(number)
        agent.wait()
    after = delivered(chain.sender, chain.receiver, 1_009)
    left = after if number == signal.SIGTERM else before + after
    done = flowstream("detach", chain.pins)
    assert done.returncode == 0
    assert done.stdout.endswith(
        f"detached from far in {chain.receiver.namespace.name}; "
        f"{left:,} packets had not been published\n"
    )
    assert not chain.pins.exists()


def test_a_file_system_that_is_mounted_anew_has_no_runs(wire, tmp_path, recording_url):
    """As after the machine has started again."""
    for _ in range(2):
        with mounted(tmp_path / "bpf") as bpffs, directory(bpffs, "pins") as pins:
            chain = Chain(wire, recording_url, pins)
            with chain.agent() as agent:
                agent.publishing()
                assert agent.logs("took_over") == []
                agent.stop()
            assert flowstream("detach", pins).returncode == 0
        (tmp_path / "bpf").rmdir()


def test_another_sampling_rate_by_sighup_goes_on_with_the_counters(chain, tmp_path):
    config = tmp_path / "agent.toml"

    def write(sampling: int) -> None:
        fresh = tmp_path / "fresh.toml"
        fresh.write_text(f"sampling = {sampling}\ninterval = 0.2\n", encoding="utf-8")
        fresh.chmod(0o644)
        fresh.rename(config)

    write(1)
    open_to_all(tmp_path)
    options = (*on(chain.receiver), "--sink", chain.url, "--pin", chain.pins, "--user", "root")
    with Agent(*options, "--config", config) as agent:
        agent.publishing()
        arrived = delivered(chain.sender, chain.receiver, PACKETS)
        write(4)
        agent.signal(signal.SIGHUP)
        assert agent.saw("resampled", 60), agent.output()
        sampled = delivered(chain.sender, chain.receiver, PACKETS)
        agent.signal(signal.SIGKILL)
        agent.wait()
    (run,) = chain.close()
    (interface,) = run["interfaces"]
    assert interface["seen"]["packets"] == arrived + sampled
    out = interface["no_flow"]["sampled_out"]["packets"]
    assert sampled // 2 < out < sampled
    found = sums([run])
    assert 0 <= arrived + sampled - out - found["published"] <= found["killed"]
