"""The attacher's process: what it holds, what it does, and how it ends."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
from support import attached
from support.agent import Agent, audited, delivered, on
from support.traffic import THROUGH_TC, wait_until

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.attacher.client import Attacher
from flowstream.errors import KernelError
from flowstream.host import privileges, seccomp
from flowstream.host.privileges import User, find_user
from flowstream.kernel import features, libbpf
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.features import CAPABILITIES
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target

PACKETS = 10_007
NOBODY = pwd.getpwnam("nobody")
LOADING = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")
PROGRAMS = pytest.mark.parametrize("program", ["flow", "counter"])
HELPER = Path(__file__).with_name("support") / "unprivileged_agent.py"


def mask(*capabilities: str) -> str:
    return f"{sum(1 << CAPABILITIES[name] for name in capabilities):016x}"


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_the_agent_has_no_privilege_and_the_attacher_what_attaching_needs(
    wire, recording_url, is_elsewhere
):
    sender, receiver = wire
    where = on(receiver) if is_elsewhere else ["-i", receiver.name]
    before = () if is_elsewhere else tuple(receiver.namespace.argv())
    options = ("--sink", recording_url, "--interval", 0.1, "--user", "nobody")
    with Agent(*where, *options, before=before) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        for held in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert agent.status(held) == {"0" * 16}, held
        attacher = attached.attacher_of(agent)
        kept = (*LOADING, "CAP_SYS_ADMIN") if is_elsewhere else LOADING
        for held in ("CapPrm", "CapEff"):
            assert attached.status(attacher, held) == mask(*kept)
        for held in ("CapInh", "CapBnd", "CapAmb"):
            assert attached.status(attacher, held) == "0" * 16
        assert attached.status(attacher, "Uid") == " ".join([str(NOBODY.pw_uid)] * 4)
        assert attached.status(attacher, "Gid") == " ".join([str(NOBODY.pw_gid)] * 4)
        assert attached.status(attacher, "Groups") == ""
        assert attached.status(attacher, "NoNewPrivs") == "1"
        assert attached.status(attacher, "Seccomp") == "2"
        # Its command line is that of the agent.
        names = [attached.status(each, "Name") for each in (agent.pid, attacher)]
        assert names[0] != names[1] == "flow-attacher"
        assert attached.status(attacher, "Threads") == "1"
        # Not dumpable: its files in /proc are root's.
        assert Path(f"/proc/{attacher}/fd").stat().st_uid == 0
        agent.stop()
    assert attached.is_gone(attacher)
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_the_attacher_holds_maps_its_namespace_and_one_end_of_a_socket(wire, recording_url):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing()
        held = attached.descriptors(attached.attacher_of(agent))
        own = str(Path(f"/proc/{agent.pid}/ns/net").readlink())
        agent.stop()
    assert sorted(held)[:3] == [0, 1, 2]
    assert [held.pop(standard) for standard in range(3)] == [os.devnull] * 3
    kinds = sorted(each.partition("[")[0] for each in held.values())
    assert kinds == ["anon_inode:bpf-map"] * 6 + ["net:", "socket:"]
    assert own in held.values()


@PROGRAMS
@pytest.mark.parametrize(
    ("mode", "direction"),
    [(Mode.NATIVE, INGRESS), (Mode.TCX, INGRESS), (Mode.TCX, EGRESS)],
    ids=["native", "tcx-ingress", "tcx-egress"],
)
def test_an_agent_without_privileges_attaches_and_changes_the_sampling(
    wire, program, mode, direction
):
    sender, receiver = wire
    device = sender if direction == EGRESS else receiver
    point = (device.namespace.name, device.name, mode, str(direction))
    command = [sys.executable, HELPER, program, *point]
    received = receiver.statistic("rx_packets")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as agent:

        def ask(line: str) -> object:
            assert agent.stdin
            assert agent.stdout
            print(line, file=agent.stdin, flush=True)
            return json.loads(agent.stdout.readline())

        assert ask("attach") == mode
        delivered(sender, receiver, PACKETS, *THROUGH_TC)
        assert ask("sample 7") == []
        delivered(sender, receiver, PACKETS, *THROUGH_TC)
        assert ask("sample 1") == []
        delivered(sender, receiver, PACKETS, *THROUGH_TC)
        counts = ask("count")
        assert isinstance(counts, list)
        assert all(counts)
        assert sum(counts) == receiver.statistic("rx_packets") - received
        assert ask("missing 1009") == {"error": f"{device.name} is gone", "errno": 19}
        if mode is Mode.TCX:
            # Each program has its place there.
            assert ask("attach") == mode
        else:
            assert ask("attach") == {
                "error": f"attaching to {receiver.name} (native): another XDP program is already "
                "there: use --hook tcx to observe beside it, or stop its owner, or, if it has "
                f"none, remove it by: ip link set dev {receiver.name} xdp off",
                "errno": 16,
            }
    assert agent.returncode == 0


def test_the_holder_of_an_interface_is_named_as_long_as_privileges_last(wire):
    _, receiver = wire
    with (
        receiver.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        probe.attach(receiver.name) as holder,
        attached.process() as process,
    ):
        attacher = Attacher(process, probe, find_user("nobody"))
        with pytest.raises(KernelError) as refused:
            attacher.attach(Target.named(receiver.name, Mode.NATIVE))
        assert f"program count_ipv4 (id {holder.program.id}) is already there" in str(
            refused.value
        )
        assert refused.value.errno == 16
        with pytest.raises(KernelError) as refused:
            attacher.attach(Target("gone", 1_009, 1_009))
        assert (str(refused.value), refused.value.errno) == ("gone is gone", 19)
        with pytest.raises(KernelError, match=r"lo \(native\): .*use --mode generic"):
            attacher.attach(Target("lo", 1, 1, Mode.NATIVE))
        with pytest.raises(KernelError, match=r"cannot run XDP programs: use --mode native"):
            attacher.attach(Target("lo", 1, 1, Mode.OFFLOAD))


def kept_without_perfmon(*, netns: bool) -> int:
    assert not netns
    return 1 << CAPABILITIES["CAP_BPF"] | 1 << CAPABILITIES["CAP_NET_ADMIN"]


def test_the_verifiers_message_comes_along(monkeypatch):
    """Without CAP_PERFMON the parser's arithmetic on pointers is refused."""
    monkeypatch.setattr(features, "kept_capabilities", kept_without_perfmon)
    with CounterProbe(max_flows=101) as probe, attached.process() as process:
        attacher = Attacher(process, probe, find_user("nobody"))
        with pytest.raises(KernelError, match="the verifier says") as refused:
            attacher.attach(Target("lo", 1, 1))
    text = str(refused.value)
    assert text.startswith("loading program count_ipv4: Permission denied; the verifier says:")
    assert text.endswith("processed 0 insns") or "prohibited" in text
    assert len(text) < 2_500


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_that_end_an_agent_do_not_end_the_attacher(wire, number):
    _, receiver = wire
    with (
        receiver.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        attached.process() as process,
    ):
        os.kill(process.pid, number)
        attacher = Attacher(process, probe, find_user("nobody"))
        os.kill(process.pid, number)
        attacher.attach(Target.named(receiver.name)).close()


def test_the_run_ends_in_order_when_the_attacher_is_killed(wire, recording_url):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--interval", 3600) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        attacher = attached.attacher_of(agent)
        os.kill(attacher, signal.SIGKILL)
        assert agent.wait() == 1
        (ended,) = agent.logs("attacher_ended")
        assert (ended["level"], ended["reason"]) == ("error", "it was killed by SIGKILL")
        assert agent.logs("ended")
        assert "Traceback" not in agent.output()
    assert attached.is_gone(attacher)
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_the_attacher_ends_while_the_sink_connects(wire):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", "kafka://127.0.0.1:1") as agent:
        assert agent.saw("attached", 60)
        os.kill(attached.attacher_of(agent), signal.SIGKILL)
        assert agent.wait() == 1
        assert agent.logs("attacher_ended"), agent.output()
        assert agent.logs("ended before the sink connected: nothing was published")


@pytest.mark.parametrize("stopped", ["kill", "second signal"])
def test_the_attacher_ends_with_the_agent(wire, recording_url, stopped):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing()
        attacher = attached.attacher_of(agent)
        assert attached.status(attacher, "PPid") == str(agent.pid)
        if stopped == "kill":
            agent.process.kill()
        else:
            # Both are there before the agent can look.
            agent.signal(signal.SIGSTOP)
            agent.signal(signal.SIGTERM)
            agent.signal(signal.SIGINT)
            agent.signal(signal.SIGCONT)
        assert agent.wait() == (-signal.SIGKILL if stopped == "kill" else 1)
        assert wait_until(lambda: attached.is_gone(attacher) or is_zombie(attacher))
    with receiver.namespace.entered():
        assert wait_until(lambda: libbpf.attached_program(receiver.index) is None)


def is_zombie(pid: int) -> bool:
    """Whether only its parent, the test's init, has not looked at its end."""
    try:
        return attached.status(pid, "State").startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_attacher_that_hangs_does_not_hold_up_the_end(wire, recording_url):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        attacher = attached.attacher_of(agent)
        os.kill(attacher, signal.SIGSTOP)
        agent.stop()
    assert attached.is_gone(attacher)
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_a_process_that_was_never_used_leaves_nothing():
    with attached.process() as process:
        assert attached.status(process.pid, "PPid") == str(os.getpid())


def test_an_attacher_that_is_gone_is_an_error(wire):
    _, receiver = wire
    with CounterProbe(max_flows=101) as probe, attached.process() as process:
        attacher = Attacher(process, probe, find_user("nobody"))
        os.kill(process.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(KernelError, match=r"has ended|does not answer"):
                attacher.attach(Target(receiver.name, receiver.index, receiver.index))


def test_foreign_descriptors_are_refused(pairs):
    """As a namespace or a link: a file, a socket, a map, a program, another interface's link."""
    (_, first), (_, second) = pairs
    with (
        first.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        probe.attach(second.name) as other,
        attached.process() as process,
        Path(os.devnull).open() as file,
    ):
        attacher = Attacher(process, probe, find_user("nobody"))
        held = attached.descriptors(process.pid)
        target = Target.named(first.name, Mode.NATIVE)
        objects = (other.program.fd, other.maps.pkt_count.fd, process.socket.fileno())
        for fd in (*objects, file.fileno(), other.link_fd):
            with pytest.raises(KernelError, match="this network namespace is not observed"):
                attacher.attach(replace(target, netns_fd=fd))
            with pytest.raises(KernelError, match=f"attaching to {first.name}"):
                attacher.attach(replace(target, link_fd=fd))
        assert libbpf.attached_program(first.index) is None
        found = libbpf.attached_program(second.index)
        assert found
        assert found[0] == other.program.id
        attacher.attach(target).close()
        assert wait_until(lambda: attached.descriptors(process.pid) == held)


def test_the_attacher_has_none_of_the_secrets_in_the_configuration(wire, tmp_path):
    _, receiver = wire
    password, key = "correct-horse-battery-staple", "a-secret-of-its-own-file"
    (tmp_path / "secret").write_text(f"{key}\n", encoding="utf-8")
    (tmp_path / "secret").chmod(0o600)
    configuration = tmp_path / "flowstream.toml"
    configuration.write_text(
        f"""interface = ["{receiver.name}"]
netns = ["{receiver.namespace.name}"]
sink = "kafka://127.0.0.1:1"
user = "root"
[kafka]
security.protocol = "SASL_PLAINTEXT"
sasl.mechanism = "PLAIN"
sasl.username = "{key[::-1]}"
sasl.password = "{password}"
""",
        encoding="utf-8",
    )
    configuration.chmod(0o600)
    with Agent("--config", configuration) as agent:
        assert agent.saw("attached", 60)
        # While the agent imports its sink it cannot be read everywhere.
        assert wait_until(lambda: password.encode() in memory(agent.pid))
        held = memory(attached.attacher_of(agent))
        assert b"CAP_NET_ADMIN" in held
        assert password.encode() not in held
        agent.signal(signal.SIGTERM)
        agent.wait()


def memory(pid: int) -> bytes:
    """Everything that a process can write to, and so what it has read."""
    found = []
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: attached.status(pid, "State").startswith("T"))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
            place, access, *rest = line.split()
            low, high = (int(each, 16) for each in place.split("-"))
            # What is mapped from a file may be a ring.
            if "w" not in access or rest[2] != "0":
                continue
            file.seek(low)
            while low < high:
                # A read may end early.
                found.append(file.read(high - low))
                low += len(found[-1])
                if not found[-1]:
                    break
    os.kill(pid, signal.SIGCONT)
    return b"".join(found)


def test_without_libseccomp_it_works_all_the_same(wire, monkeypatch):
    _, receiver = wire
    monkeypatch.setattr(seccomp, "SONAME", "libseccomp.so.none")
    with (
        receiver.namespace.entered(),
        CounterProbe(max_flows=101) as probe,
        attached.process() as process,
        structlog.testing.capture_logs() as logs,
    ):
        attacher = Attacher(process, probe, find_user("nobody"))
        attacher.attach(Target.named(receiver.name)).close()
        assert attached.status(process.pid, "Seccomp") == "0"
    assert [each["event"] for each in logs] == ["attacher_calls_not_restricted"]
    assert "libseccomp.so.none" in logs[0]["reason"]


def test_a_user_that_the_process_cannot_become(monkeypatch):
    """Capabilities that stay end the start."""
    monkeypatch.setattr(privileges, "_set_capabilities", lambda *_: None)
    with CounterProbe(max_flows=101) as probe, attached.process() as process:
        with pytest.raises(KernelError, match=r"starting the attacher: capabilities 0x\w+ could"):
            Attacher(process, probe, User(0, 0))
        assert wait_until(lambda: is_zombie(process.pid))
