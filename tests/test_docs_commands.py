"""Every command of the documents is run, as it stands there; the table says which are not.

Lasting commands are ended once they have done their work. In place of what documents name, such
as eth0 or a broker at 10.0.0.1, there are stand-ins: ``support.shell``.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.documents import TOP, arguments_of, blocks, commands
from support.shell import Host, Site

from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_RUN = {
    r"make ": "targets of the Makefile: make newcomer and CI run them",
    r"docker |FLOWSTREAM_INTERFACE=eth0 docker ": "no container engine here: make image",
    r"(pip|\S+/pip) |python3 -m venv ": "downloads: make setup, make image, tests/test_wheel.py",
    r"sudo (apt|systemctl) |sudoedit ": "needs systemd and a host of its own: tests/deb/run.sh",
    r"kubectl ": "no cluster here: tests/test_kubernetes.py",
    r"(sudo )?(\S+/)?flowstream top ": "a live view: tests/test_top_agent.py, test_top_screen.py",
    r".*\| ssh ": "sends to another host: tests/test_report.py",
    r"useradd ": "changes the host's users",
    r"(agent|attacher)=\$|capsh |sudo (grep|ls) ": "needs the unit: tests/test_attacher.py",
    r"tc (filter|qdisc) ": "needs Linux before 6.6: tests/test_attacher_clsact.py",
    r"sudo sh -c 'cat /proc/PID": "needs a process id: tests/test_pcap_resources.py reads it so",
    r".* --registry ": "no schema registry here: tests/test_pcap_formats.py",
    r"(sudo )?flowstream demo": "tests/test_demo.py",
    r"kafka-console-consumer.sh ": "has no end; kcat beside it reads the same",
    r".*clickhouse-client ": "no server here: examples/test_tables.py has the same definitions",
    r"spark-submit |mvn |java |python examples/|gcc |.*\./sum$": "make examples",
    r"flowstream schema flink ": "make examples",
}
"""Beginnings of commands, and why they are not run here, or what runs them."""

STATUSES = {
    # In the tests' network there is no physical interface.
    "sudo flowstream check": (0, 1),
}
"""Exit statuses of commands that may end with another one than 0."""

PINS = "/sys/fs/bpf/flowstream"

PREPARED = {
    "docs/cookbook.md": ("captures",),
    "docs/consumers.md": ("recorded",),
    "docs/reading.md": ("flowstream-recording", "office.fsrec"),
    "docs/reference/commands.md": ("recorded", "office.fsrec", "a.fsrec"),
}
"""Recordings that a document's commands take from elsewhere."""


def reason(command: str) -> str | None:
    """Why a command is not run here; None where it is."""
    return next((why for what, why in NOT_RUN.items() if re.match(what, command)), None)


def lasts(command: str) -> bool:
    """Whether it is an agent, which goes on until it is told to end."""
    return any(words[:1] == ["run"] for words in arguments_of(command))


PAGES = sorted(
    {
        str(block.document.relative_to(TOP))
        for block in blocks("sh")
        if not all(map(reason, commands(block.text)))
    }
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page: str, site: Site) -> None:
    mine = [block for block in blocks("sh", "toml") if block.document == TOP / page]
    with site.host() as host:
        host.forget_topics()
        prepare(host, page)
        for block in mine:
            if block.language == "toml":
                host.configure(block.text)
                continue
            for command in commands(block.text):
                if not reason(command):
                    run(host, command)


def run(host: Host, command: str) -> None:
    """Run a command of a document to its end, also one that has none."""
    if "flowstream detach" in command:
        host.run_agent(f"flowstream run -i eth1 --sink file:pinned --pin {PINS}")
    if lasts(command):
        host.run_agent(command)
    elif "--follow" in command:
        host.follow(command)
    elif asked := re.search(r"flowstream health (\S+)", command):
        with host.observing(f"flowstream run -i eth1 --sink file:healthy --metrics {asked[1]}"):
            host.run(command)
    else:
        host.run(command, STATUSES.get(command, (0,)))
    if "--pin" in command:
        # It stands in the way of the next example.
        host.run(f"flowstream detach {PINS}")


def prepare(host: Host, page: str) -> None:
    """Make what the first command of a page may already expect: records in the topics, files."""
    host.configure('interface = ["eth0"]\nsink = "kafka://10.0.0.1:9092"\n')
    host.publish()
    for name in PREPARED.get(page, ()):
        if name.endswith(".fsrec"):
            topics = " ".join(f"--topic flowstream.{stream}" for stream in Stream)
            host.run(f"flowstream record kafka://10.0.0.1:9092 {topics} --to {name}")
        else:
            host.run(f"flowstream pcap dns-edns-ecs.pcap http_09.pcap --sink file:{name}")


def test_the_table_names_commands_that_are_there() -> None:
    written = [command for block in blocks("sh") for command in commands(block.text)]
    for what in NOT_RUN:
        assert any(re.match(what, command) for command in written), what
    assert STATUSES.keys() <= set(written)
    assert PREPARED.keys() <= set(PAGES)
