"""Starts with other privileges than root's: in containers, and by file or ambient capabilities."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import attached
from support.agent import Agent, audited, delivered, on
from support.users import open_to_all

from flowstream.kernel.features import CAPABILITIES

PACKETS = 10_007
LOADING = ("bpf", "net_admin", "perfmon")


def mask(*names: str) -> str:
    return f"{sum(1 << CAPABILITIES[f'CAP_{name.upper()}'] for name in names):016x}"


def bounded(*names: str) -> tuple[str, ...]:
    """Before a command: root with these capabilities alone, as in a container."""
    these = ",".join(f"+{name}" for name in names)
    return ("setpriv", f"--bounding-set=-all,{these}", "--no-new-privs")


@pytest.mark.parametrize(
    ("held", "kept", "uid"),
    [
        ((*LOADING, "setuid", "setgid", "chown", "dac_override"), LOADING, "65534"),
        # Both stay root, by name alone.
        ((*LOADING, "chown", "dac_override"), LOADING, "0"),
        # CAP_SYS_ADMIN stands for all of them, as before Linux 5.8.
        (("sys_admin", "net_admin", "chown", "dac_override"), ("sys_admin", "net_admin"), "0"),
    ],
)
def test_root_in_a_container(wire, recording_url, held, kept, uid):
    sender, receiver = wire
    before = (*receiver.namespace.argv(), *bounded(*held))
    options = ("-i", receiver.name, "--sink", recording_url, "--user", "nobody")
    with Agent(*options, before=before) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        attacher = attached.attacher_of(agent)
        assert agent.status("CapPrm") == {"0" * 16}
        for each in ("CapPrm", "CapEff"):
            assert attached.status(attacher, each) == mask(*kept)
        assert attached.status(attacher, "Seccomp") == "2"
        assert {line.split()[0] for line in agent.status("Uid")} == {uid}
        assert attached.status(attacher, "Uid").split() == [uid] * 4
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == arrived


def test_a_user_with_ambient_capabilities(wire, tmp_path):
    """As by systemd's User= and AmbientCapabilities=."""
    sender, receiver = wire
    open_to_all(tmp_path)
    tmp_path.chmod(0o777)
    ambient = ",".join(f"+{name}" for name in (*LOADING, "dac_read_search"))
    before = (
        *(*receiver.namespace.argv(), "setpriv", "--reuid=12345", "--regid=12345"),
        *("--clear-groups", f"--inh-caps={ambient}", f"--ambient-caps={ambient}"),
    )
    url = f"file:{tmp_path}/recording"
    with Agent("-i", receiver.name, "--sink", url, before=before) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS)
        attacher = attached.attacher_of(agent)
        assert agent.status("CapPrm") == {"0" * 16}
        assert attached.status(attacher, "CapEff") == mask(*LOADING)
        for each in ("CapInh", "CapAmb"):
            assert attached.status(attacher, each) == "0" * 16
        assert attached.status(attacher, "Uid").split() == ["12345"] * 4
        agent.stop()
    (interface,) = audited(url)
    assert interface["flows"]["packets"] == arrived


def test_the_attacher_is_no_zombie_where_sigchld_is_ignored(wire, recording_url):
    _, receiver = wire
    before = ("env", "--ignore-signal=CHLD")
    with Agent(*on(receiver), "--sink", recording_url, before=before) as agent:
        agent.publishing()
        attacher = attached.attacher_of(agent)
        subprocess.run(["kill", "-KILL", str(attacher)], check=True)
        assert agent.wait() == 1
        (ended,) = agent.logs("attacher_ended")
        assert ended["reason"] == "it ended"
    assert not Path(f"/proc/{attacher}").exists()


def test_a_host_without_proc(wire, recording_url):
    _, receiver = wire
    without = ("unshare", "--mount", "sh", "-c", 'umount --lazy /proc && exec "$@"', "sh")
    before = (*receiver.namespace.argv(), *without)
    with Agent("-i", receiver.name, "--sink", recording_url, before=before) as agent:
        assert agent.wait() == 1
        assert agent.output().splitlines()[-1] == (
            "flowstream: error: /proc is not mounted: it tells which capabilities there are"
        )
