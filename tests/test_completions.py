"""Completions, asked of the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest
from support.net import namespace, veth_pair

from flowstream.cli.main import make_parser
from tools.commands import commands_of

TOP = Path(__file__).parent.parent
COMMANDS = set(commands_of(make_parser()))
FORMATS = {"json", "msgpack", "protobuf", "avro"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("completions")
    written = place / "written"
    command = [sys.executable, "-m", "tools.completions", written]
    subprocess.run(command, cwd=TOP, check=True, timeout=60)
    (place / "captures").mkdir()
    (place / "captures" / "office.pcap").touch()
    return written


def ended(*command: str, **options) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, **options
    )
    assert result.stderr == ""
    return result.stdout


def bash(directory: Path, line: str) -> set[str]:
    *before, word = line.split(" ")
    words = shlex.join([*before, word])
    script = (
        f"source {directory}/flowstream; COMP_WORDS=({words}); COMP_CWORD={len(before)}; "
        '_shtab_flowstream 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return set(ended("bash", "-c", script, cwd=directory.parent).split())


def fish(directory: Path, line: str) -> set[str]:
    script = f"source {directory}/flowstream.fish; complete -C {shlex.quote(line)}"
    environment = os.environ | {"HOME": str(directory.parent)}
    answer = ended("fish", "--no-config", "-c", script, cwd=directory.parent, env=environment)
    return {each.partition("\t")[0] for each in answer.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_parses_its_file(directory, shell):
    names = {"bash": "flowstream", "zsh": "_flowstream", "fish": "flowstream.fish"}
    assert {path.name for path in directory.iterdir()} == set(names.values())
    assert ended(shell, "-n", directory / names[shell]) == ""


@pytest.mark.parametrize("ask", [bash, fish])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flowstream ", COMMANDS),
        ("flowstream ca", {"cat"}),
        ("flowstream run --community", {"--community-id"}),
        ("flowstream run --config flowstream.toml --format ", FORMATS),
        ("flowstream pcap captures/office.pcap --names n", {"netobserv"}),
        ("flowstream pcap captures/o", {"captures/office.pcap"}),
        ("flowstream schema clickhouse --topic n", {"new_flows"}),
    ],
)
def test_a_shell_completes(directory, ask, line, expected):
    assert ask(directory, line) == expected


@pytest.mark.parametrize("ask", [bash, fish])
def test_interfaces_are_those_of_the_host(directory, ask):
    interfaces = {path.name for path in Path("/sys/class/net").iterdir()}
    assert "lo" in interfaces
    assert ask(directory, "flowstream run -i ") >= interfaces


def test_a_name_of_an_interface_is_no_command(directory):
    name = "a$(echo>made)"
    with namespace() as other, veth_pair(other, names=(name, "far")):
        ask = f"cd {directory.parent}; . {directory}/flowstream; _flowstream_interfaces a"
        said = other.run("bash", "-c", ask)
    assert said.split() == [r"a\$\(echo\>made\)"]
    assert not (directory.parent / "made").exists()


class Zsh:
    """An interactive zsh in a terminal of its own."""

    def __init__(self, directory: Path) -> None:
        self.screen = pyte.Screen(150, 50)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory.parent)
            settings = os.environ | {"TERM": "xterm", "PROMPT": "ready> ", "LC_ALL": "C.UTF-8"}
            os.execvpe("zsh", ["zsh", "-f", "-i"], settings)
        self.type("stty columns 150 rows 50\n")
        self.type(f"fpath=({directory} $fpath); autoload -U compinit; compinit -D -u\n")
        self.type("clear; echo completed by $_comps[flowstream]\n")
        self.shows("completed by _flowstream")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def shows(self, text: str) -> str:
        """Wait until the text is on the screen; return all of the screen."""
        deadline = time.monotonic() + 30
        while text not in (shown := "\n".join(map(str.rstrip, self.screen.display))):
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.terminal], [], [], left)[0], shown
            self.stream.feed(os.read(self.terminal, 65536))
        return shown

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture
def zsh(directory):
    shell = Zsh(directory)
    yield shell
    shell.close()


def test_zsh_completes_a_command_and_a_value(zsh):
    zsh.type("flowstream ca\t--form\tp\t")
    zsh.shows("ready> flowstream cat --format parquet")


def test_zsh_lists_the_commands_with_what_they_do(zsh):
    zsh.type("flowstream \t")
    shown = zsh.shows("run     -- Attach to interfaces")
    listed = {line.partition(" -- ")[0].strip() for line in shown.splitlines() if " -- " in line}
    assert listed == COMMANDS


def test_zsh_completes_a_file(zsh):
    zsh.type("flowstream pcap capt\to\t")
    zsh.shows("ready> flowstream pcap captures/office.pcap")
