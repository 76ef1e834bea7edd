"""The user that the agent becomes: its own, where the host has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import attached
from support.agent import Agent, on

OWN = 54_321


@pytest.fixture
def with_user(tmp_path: Path) -> tuple[str, ...]:
    """Before a command: it runs on a host that has the user flowstream."""
    passwd = tmp_path / "passwd"
    lines = Path("/etc/passwd").read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if not line.startswith("flowstream:")]
    own = f"flowstream:x:{OWN}:{OWN}::/nonexistent:/usr/sbin/nologin"
    passwd.write_text("\n".join([*others, own, ""]), encoding="utf-8")
    script = f'mount --bind {passwd} /etc/passwd && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def ids(agent: Agent) -> set[str]:
    """User ids of the agent and of its attacher."""
    theirs = {uid for line in agent.status("Uid") for uid in line.split()}
    return theirs | {*attached.status(attached.attacher_of(agent), "Uid").split()}


def test_the_agents_own_user_is_the_default(wire, recording_url, with_user):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, before=with_user) as agent:
        agent.publishing()
        assert ids(agent) == {str(OWN)}
        assert not agent.logs("shared_user")
        agent.stop()


@pytest.mark.parametrize("given", [[], ["--user", "nobody"]])
def test_without_it_the_default_is_nobody_which_is_warned_about(wire, recording_url, given):
    _, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, *given) as agent:
        agent.publishing()
        (nobody,) = ids(agent)
        agent.stop()
        warned = agent.logs("shared_user")
    assert nobody == "65534"
    if given:
        assert not warned
    else:
        (line,) = warned
        assert (line["level"], line["user"]) == ("warning", "nobody")
        assert line["remedy"] == (
            "useradd --system --no-create-home --shell /usr/sbin/nologin flowstream"
        )


def test_another_user_is_given(wire, recording_url, with_user):
    _, receiver = wire
    options = ("--sink", recording_url, "--user", "12345")
    with Agent(*on(receiver), *options, before=with_user) as agent:
        agent.publishing()
        assert ids(agent) == {"12345"}
        agent.stop()
