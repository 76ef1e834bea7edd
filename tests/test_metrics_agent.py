"""Metrics and health of real agents."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from broker.acls import ANYBODY, AUTHORIZING, allow, denied
from support.agent import Agent, audited, delivered, flowstream, on
from support.dashboards import PROGRAMS
from support.net import namespace, veth_pair
from support.notified import Manager
from support.scraping import OPENMETRICS, free_port, get, scrape
from support.traffic import wait_until

from flowstream.host.privileges import find_user, user_name

PACKETS = 300_007
FLOWS = 10_007
FRAME = 83
USER = find_user(user_name(None))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def own(place):
    """A directory of the agent's user."""
    path = place / "own"
    path.mkdir()
    os.chown(path, *USER)
    return path


def settled(port):
    """The metrics once no seen packet waits."""
    assert wait_until(lambda: scrape(port).sum("waiting_packets") == 0)
    return scrape(port)


def measured(now):
    """Whether the latency of every published record was measured."""
    return all(
        now.sum("publish_latency_seconds_count", stream=stream)
        == now.sum("published_records_total", stream=stream)
        for stream in ("flows", "new_flows")
    )


def test_every_packet_is_in_one_term_of_every_scrape(wire, recording_url, port):
    sender, receiver = wire
    options = (*on(receiver), "--sink", recording_url, "--interval", 0.5, "--max-flows", 4_096)
    with Agent(*options, "--metrics", f"127.0.0.1:{port}") as agent:
        agent.publishing()
        seen, waited, scrapes = [], 0.0, 0
        with ThreadPoolExecutor(1) as pool:
            traffic = pool.submit(
                delivered, sender, receiver, PACKETS, "-f", FLOWS, "-l", FRAME, "-p", 60_000
            )
            while not traffic.done() or scrapes < 8:
                now = scrape(port, OPENMETRICS if scrapes % 2 else None)
                now.require_equation()
                seen.append(now.sum("seen_packets_total"))
                waited = max(waited, now.sum("waiting_packets"))
                scrapes += 1
            arrived = traffic.result()
        settled(port)
        # The histograms are read after the counts: acknowledgements may come in between.
        assert wait_until(lambda: measured(scrape(port)))
        last = scrape(port)
        agent.stop()
    assert seen == sorted(seen)
    assert waited > 0
    assert last.sum("seen_packets_total") == arrived
    assert last.sum("seen_bytes_total") == arrived * FRAME
    assert last.sum("published_packets_total") + last.sum("lost_packets_total") == arrived
    assert last.sum("drain_duration_seconds_count") > 0
    assert last.sum("flow_table_swaps_total") > 0
    assert last.sum("encode_duration_seconds_count") > 0
    for stream in ("flows", "new_flows"):
        assert last.sum("published_records_total", stream=stream) > 0
    # A record is published at the end of its interval, and its last packet was in it.
    mean = last.sum("publish_latency_seconds_sum") / last.sum("publish_latency_seconds_count")
    assert 0 < mean < 60
    audited(recording_url)


def test_promtool_and_openmetrics_have_nothing_to_say_against_it(wire, recording_url, port):
    _, receiver = wire
    options = (*on(receiver), "--sink", recording_url, "--direction", "both")
    with Agent(*options, "--metrics", f"127.0.0.1:{port}") as agent:
        agent.publishing()
        text = get(port, "/metrics").body
        exact = scrape(port, OPENMETRICS)
        agent.stop()
    checked = subprocess.run(
        [PROGRAMS / "promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert exact.sum("attachment_info", direction="egress", hook="tc", mode="tcx") == 1
    assert exact.sum("attachment_info", direction="ingress", hook="xdp") == 1
    assert exact.sum("interfaces") == 1
    assert exact.sum("sink_up", sink=recording_url) == 1
    assert exact.sum("ring_buffer_size_bytes", ring="overflow") == 16 << 20
    names = {each.name for each in exact.samples}
    assert {"process_open_fds", "process_resident_memory_bytes", "python_info"} <= names


def test_the_counter_program_has_the_metrics_too(wire, recording_url, port):
    sender, receiver = wire
    options = (*on(receiver), "--sink", recording_url, "--program", "counter")
    with Agent(*options, "--metrics", f"127.0.0.1:{port}") as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, 1_009)
        found = scrape(port)
        agent.stop()
    found.require_equation()
    assert found.sum("no_flow_packets_total", reason="counted") == arrived


def test_an_agent_is_ready_while_it_publishes(wire, recording_url, port):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--metrics", f":{port}") as agent:
        agent.publishing()
        ready, alive = get(port, "/readyz"), get(port, "/healthz")
        agent.stop()
    attached = {
        "interface": receiver.name,
        "direction": "ingress",
        "netns": receiver.namespace.name,
    }
    assert (ready.status, ready.content_type) == (200, "application/json")
    assert ready.content == {
        "ready": True,
        "condition": "publishing",
        "reason": "",
        "attached": [attached],
    }
    assert (alive.status, alive.body) == (200, b"ok\n")


def test_names_that_are_no_text_are_answered_all_the_same(place, port):
    name, sink = os.fsdecode(b"a\xffb"), place / os.fsdecode(b"recording\xff")
    with (
        namespace() as other,
        veth_pair(other, names=("near", name)),
        Agent(
            *("-i", name, "--netns", other.name, "--sink", f"file:{sink}"),
            *("--metrics", f"127.0.0.1:{port}"),
        ) as agent,
    ):
        agent.publishing()
        (attached,) = get(port, "/readyz").content["attached"]
        found = scrape(port)
        agent.stop()
    assert attached["interface"] == "a?b"
    assert found.sum("attachment_info", interface="a?b") == 1
    assert found.sum("sink_up", sink=f"file:{place}/recording?") == 1


def test_an_agent_without_an_interface_is_not_ready(wire, recording_url, port):
    _, receiver = wire
    with Agent(
        *("-i", "none*", "--netns", receiver.namespace.name, "--sink", recording_url),
        *("--metrics", f"127.0.0.1:{port}"),
    ) as agent:
        agent.publishing()
        answer = get(port, "/readyz")
        assert scrape(port).sum("interfaces") == 0
        agent.stop()
    assert answer.status == 503
    assert answer.content["reason"] == "no interface is attached to"


def test_an_agent_that_spools_is_ready_and_its_sink_is_not_up(wire, own, port):
    sender, receiver = wire
    sink = "kafka://127.0.0.1:1"
    with Agent(
        *(*on(receiver), "--sink", sink, "--spool", own / "spool", "--interval", 0.5),
        *("--metrics", f"127.0.0.1:{port}"),
    ) as agent:
        agent.publishing()
        delivered(sender, receiver, 10_007, "-f", 101)
        assert wait_until(lambda: scrape(port).sum("spooled_packets") == 10_007)
        # The size of the spool is looked at once a second.
        assert wait_until(lambda: scrape(port).sum("spool_bytes") > 0)
        ready, found = get(port, "/readyz"), scrape(port)
        agent.signal(signal.SIGKILL)
    assert (ready.status, ready.content["condition"]) == (200, "spooling")
    found.require_equation()
    assert found.sum("waiting_packets") == 10_007
    assert found.sum("spooled_records") > 101
    assert found.sum("spool_limit_bytes") == 1 << 30
    assert found.sum("spool_oldest_timestamp_seconds") > 1.7e9
    assert found.sum("sink_up", sink=sink) == 0


def test_a_renamed_interface_is_shown_and_not_the_one_of_its_name_that_went(own, port):
    """The spool keeps the final counters of what went from coming."""
    with (
        namespace() as hosts,
        namespace() as other,
        veth_pair(hosts, other, names=("near0", "far0")) as (sender, receiver),
        veth_pair(hosts, other, names=("near1", "far1")) as (second, went),
        Manager() as manager,
        Agent(
            *("-i", "far*", "--netns", other.name, "--sink", "kafka://127.0.0.1:1"),
            *("--spool", own / "spool", "--interval", 0.5, "--metrics", f"127.0.0.1:{port}"),
            before=manager.environment(),
        ) as agent,
    ):
        agent.publishing()
        delivered(second, went, 53)
        delivered(sender, receiver, 1_009)
        assert wait_until(lambda: scrape(port).sum("spooled_packets") == 1_062)
        other.run("ip", "link", "delete", "far1")
        assert wait_until(lambda: manager.statuses[-1].startswith("1 interface: "))
        assert scrape(port).sum("seen_packets_total", interface="far1") == 53
        other.run("ip", "link", "set", "far0", "down")
        other.run("ip", "link", "set", "far0", "name", "far1")
        other.run("ip", "link", "set", "far1", "up")
        far0 = ("far0", "ingress", other.name)
        assert wait_until(lambda: far0 not in scrape(port).by_attachment("waiting_packets"))
        found = scrape(port)
        other.run("ip", "link", "delete", "far1")
        assert wait_until(lambda: get(port, "/readyz").status == 503)
        gone = scrape(port)
        agent.signal(signal.SIGKILL)
    for each in (found, gone):
        each.require_equation()
        assert each.sum("seen_packets_total", interface="far1") == 1_009


def test_an_agent_whose_cluster_has_gone_is_not_ready(wire, broker_factory, port):
    _, receiver = wire
    broker = broker_factory()
    with Agent(
        *(*on(receiver), "--sink", broker.url, "--metrics", f"127.0.0.1:{port}"),
        *("--shutdown-timeout", 1),
    ) as agent:
        agent.publishing()
        assert wait_until(lambda: get(port, "/readyz").status == 200)
        broker.stop(signal.SIGKILL)
        assert wait_until(lambda: get(port, "/readyz").status == 503)
        answer, found = get(port, "/readyz"), scrape(port)
        assert get(port, "/healthz").status == 200
        agent.stop(status=1)
    assert answer.content["condition"] == "waiting"
    assert answer.content["reason"] == "the cluster does not take records, which wait in memory"
    assert found.sum("sink_up") == 0


@pytest.mark.parametrize(
    ("spools", "refused"), [(False, (503, "refused")), (True, (200, "spooling"))]
)
def test_an_agent_whose_records_are_refused_does_not_publish(
    wire, broker_factory, own, port, spools, refused
):
    sender, receiver = wire
    broker = broker_factory(**AUTHORIZING)
    spool = ("--spool", own / "spool") if spools else ()
    with Agent(
        *(*on(receiver), "--sink", broker.url, "--metrics", f"127.0.0.1:{port}"),
        *("--interval", 0.2, *spool),
    ) as agent:
        agent.publishing()

        def becomes(status, condition):
            """Whether the agent is so after some more traffic, by its sink too."""
            delivered(sender, receiver, 101, "-f", 11)
            ready, up = get(port, "/readyz"), scrape(port).sum("sink_up")
            now = (ready.status, ready.content["condition"])
            return (*now, up) == (status, condition, float(condition == "publishing"))

        assert wait_until(lambda: becomes(200, "publishing"))
        allow(broker, ANYBODY, "flowstream.flows", "ALL")
        with denied(broker, ANYBODY, "flowstream.flows", "WRITE"):
            assert wait_until(lambda: becomes(*refused)), get(port, "/readyz")
            scrape(port).require_equation()
        assert wait_until(lambda: becomes(200, "publishing")), get(port, "/readyz")
        agent.stop()


def test_an_agent_is_not_ready_before_its_sink_has_started(wire, port):
    _, receiver = wire
    with Agent(
        *(*on(receiver), "--sink", "kafka://127.0.0.1:1", "--metrics", f"127.0.0.1:{port}")
    ) as agent:
        assert agent.saw("serving_metrics", 60)
        answer = get(port, "/readyz")
        assert agent.wait() == 1
    assert answer.status == 503
    assert answer.content["reason"] == "the sink has not started"
    assert answer.content["condition"] is None


def test_a_unix_socket_belongs_to_the_agents_user_and_goes_with_it(wire, recording_url, own):
    _, receiver = wire
    path = own / "metrics.sock"
    with Agent(*on(receiver), "--sink", recording_url, "--metrics", f"unix:{path}") as agent:
        agent.publishing()
        status = path.stat()
        assert scrape(path).sum("interfaces") == 1
        second = flowstream(
            *("run", "-i", "lo", "--sink", f"{recording_url}2", "--metrics", f"unix:{path}")
        )
        agent.stop()
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert (status.st_uid, status.st_gid) == USER
    assert not path.exists()
    assert second.returncode == 2
    (said,) = [line for line in second.stderr.splitlines() if "metrics:" in line]
    assert f"metrics: unix:{path}: something else is there: another process listens there" in said


def test_a_socket_that_a_killed_agent_left_is_replaced(wire, recording_url, own):
    _, receiver = wire
    path = own / "metrics.sock"
    options = (*on(receiver), "--sink", recording_url, "--metrics", f"unix:{path}")
    with Agent(*options) as agent:
        agent.publishing()
    assert path.is_socket()
    with Agent(*options) as agent:
        agent.publishing()
        assert get(path, "/healthz").status == 200
        agent.stop()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(kind, own, recording_url):
    path = own / "metrics.sock"
    {
        "file": lambda: path.write_text("content"),
        "directory": path.mkdir,
        "link": lambda: path.symlink_to("/etc/hostname"),
    }[kind]()
    before = path.lstat()
    done = flowstream("run", "-i", "lo", "--sink", recording_url, "--metrics", f"unix:{path}")
    assert done.returncode == 2
    assert "something else is there" in done.stderr
    assert path.lstat() == before


def test_a_directory_that_is_not_the_users_is_refused(place, recording_url):
    done = flowstream(
        *("run", "-i", "lo", "--sink", recording_url, "--metrics", f"unix:{place}/metrics.sock")
    )
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if "metrics:" in line]
    assert f"the agent's user cannot create it: give {place} to that user" in said


def test_a_port_that_is_taken_ends_the_start_before_anything_is_attached(
    wire, recording_url, port
):
    _, receiver = wire
    options = (*on(receiver), "--metrics", f"127.0.0.1:{port}", "--sink")
    with Agent(*options, recording_url) as agent:
        agent.publishing()
        second = flowstream("run", *options, f"{recording_url}2", "--log-format", "json")
        agent.stop()
    assert second.returncode == 2
    assert f"metrics: 127.0.0.1:{port}: another process listens there" in second.stderr
    assert "attached" not in second.stderr


def test_an_address_of_another_host_is_refused(recording_url):
    done = flowstream(*("run", "-i", "lo", "--sink", recording_url, "--metrics", "192.0.2.1:9435"))
    assert done.returncode == 2
    assert "metrics: 192.0.2.1:9435: no interface of this host has this address" in done.stderr


def test_another_address_needs_a_restart_and_reloads_are_counted(wire, own, port):
    _, receiver = wire
    file = own / "flowstream.toml"
    text = f'sink = "file:{own}/recording"\nmetrics = "127.0.0.1:{{port}}"\n'
    file.write_text(text.format(port=port))
    with Agent(*on(receiver), "--config", file) as agent:
        agent.publishing()
        first = scrape(port)
        file.write_text(text.format(port=port + 1))
        agent.signal(signal.SIGHUP)
        assert agent.saw("reloaded", 60)
        (needs,) = agent.logs("reload_needs_restart")
        file.write_text("metrics = 3\n")
        agent.signal(signal.SIGHUP)
        assert agent.saw("reload_failed", 60)
        assert wait_until(lambda: scrape(port).sum("config_reloads_total", result="failure") == 1)
        found = scrape(port)
        agent.stop()
    assert needs["options"] == ["metrics"]
    assert found.sum("config_reloads_total", result="success") == 1
    read = "config_last_reload_success_timestamp_seconds"
    assert found.sum(read) > first.sum(read)
    successful = "config_last_reload_successful"
    assert (first.sum(successful), found.sum(successful)) == (1, 0)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_run_of_a_chain_listens_at_the_same_address(wire, own, bpffs, port, end):
    sender, receiver = wire
    options = (*on(receiver), "--sink", f"file:{own}/recording", "--pin", bpffs / "flowstream")
    options = (*options, "--metrics", f"127.0.0.1:{port}")
    with Agent(*options) as first:
        first.publishing()
        before = scrape(port)
        # The second one waits until the first has ended.
        with Agent(*options) as second:
            first.signal(end)
            first.wait()
            arrived = delivered(sender, receiver, 10_007)
            second.publishing()
            after = settled(port)
            second.stop()
    flowstream("detach", bpffs / "flowstream")
    assert before.sum("run_info") == after.sum("run_info") == 1
    after.require_equation()
    assert after.sum("seen_packets_total") <= arrived
