from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.published import Published, publish

import flowstream
from flowstream import schemas
from flowstream.agent import run as agent
from flowstream.cli import schema as schema_command
from flowstream.cli.main import main
from flowstream.config.run import OPTIONS, RunConfig
from flowstream.errors import KernelError
from flowstream.kafka.properties import PROPERTIES

if TYPE_CHECKING:
    from flowstream.attacher.process import Process
    from flowstream.config.source import ConfigSource
    from flowstream.host.service_manager import ServiceManager

COMMANDS = (
    "run",
    "detach",
    "demo",
    "pcap",
    "audit",
    "cat",
    "top",
    "check",
    "health",
    "record",
    "replay",
    "schema",
)
PROGRAM = (sys.executable, "-m", "flowstream.cli.main")


def program(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.fixture
def refused(capsys):
    """Run a wrong command line; return the one line of its error."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("flowstream: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("flowstream: error: ").rstrip("\n")

    return run


@pytest.fixture
def agent_runs(monkeypatch):
    """Configurations that the agent was started with; it returns 0 at once."""
    configs: list[RunConfig] = []

    def run(
        config: RunConfig, process: Process, source: ConfigSource | None, manager: ServiceManager
    ) -> int:
        assert source is None or source.config == config
        configs.append(config)
        return 0

    monkeypatch.setattr(agent, "run", run)
    return configs


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flowstream {flowstream.__version__}\n"


def test_help_names_the_commands_and_the_exit_statuses(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^    {command}  ", out, re.MULTILINE)
    for status in ("0    success", "1    failure", "2    mistake", "130  interrupted"):
        assert status in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples_and_is_ascii(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: flowstream {command} ")
    assert f"examples:\n  flowstream {command}" in out.replace("sudo ", "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 80


def test_the_properties_of_kafka_clients_are_listed_on_standard_output(capsys):
    assert main(["audit", "-X", "list"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line for line in out.splitlines() if not line.startswith(" ")] == list(PROPERTIES)


def test_help_of_run_shows_every_option_with_limits_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    assert main(["run", "--help"]) == 0
    out = capsys.readouterr().out
    for option in OPTIONS.values():
        takes = "" if option.is_switch else rf" {option.metavar}"
        (line,) = re.findall(rf"^  .*--{option.name}{takes}\s(.*)$", out, re.MULTILINE)
        assert option.description in line
        if option.is_switch:
            continue
        assert option.allowed in line
        if option.default not in (None, ()):
            assert f"(default {option.default})" in line


def test_help_imports_nothing_heavy():
    """Checked by the imported modules, independent of the speed of the machine."""
    code = (
        "import sys; from flowstream.cli.main import main; main(['run', '--help']); "
        "print(sorted(sys.modules.keys() & set(sys.argv[1:])), file=sys.stderr)"
    )
    heavy = ["numpy", "aiokafka", "rich", "structlog", "pyroute2", "asyncio", "uvloop"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"


def test_run_imports_structlog_without_rich():
    """rich would cost the agent memory and time; afterwards it can be imported."""
    code = (
        "import sys; from flowstream.cli.main import main; hooks = list(sys.meta_path);"
        "main(['run', '-i', 'a', '--user', 'no-such-user']);"
        "print('structlog' in sys.modules, [m for m in sys.modules if m.startswith('rich')]);"
        "import rich.console, structlog; print(structlog.dev.rich, sys.meta_path == hooks)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\nNone True\n"


def test_the_error_of_a_failed_start_is_told_though_sighup_came_before():
    code = """
import os, signal
from flowstream.cli.run import _held_back
try:
    with _held_back(signal.SIGHUP):
        os.kill(os.getpid(), signal.SIGHUP)
        raise ValueError
except ValueError:
    print("told", signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "told True\n")


def test_the_formats_of_schemas_are_those_of_the_package():
    assert schema_command._FORMATS == schemas.FORMATS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: COMMAND (see flowstream --help)"),
        (
            ["fly"],
            "argument COMMAND: invalid choice: 'fly'; use run, demo, pcap, audit, cat, top, ",
        ),
        (["adit"], "argument COMMAND: invalid choice: 'adit'; did you mean audit? (see flows"),
        (["run", "-i"], "argument -i/--interface: expected one argument (see flowstream run"),
        (
            ["run", "-i", "a", "--interv", "7"],
            "unrecognized arguments: --interv 7; did you mean --interval? (see flowstream run ",
        ),
        (
            ["replay", "a", "--to", "b", "--sped=1"],
            "unrecognized arguments: --sped=1; did you mean --speed? (see flowstream replay ",
        ),
        (["--verbose", "run", "-i", "a"], "unrecognized arguments: --verbose; did you mean --ver"),
        (["audit", "a", "--zzz"], "unrecognized arguments: --zzz (see flowstream audit --help)"),
        (
            ["run", "-i", "a", "tcp"],
            "unrecognized arguments: tcp; give an interface by -i, a filter by --filter 'EXPR'",
        ),
        (
            ["cat", "a", "packets > 9"],
            "unrecognized arguments: packets > 9; give a condition by --where 'CONDITION' (see ",
        ),
        (["audit", "a", "b"], "unrecognized arguments: b (see flowstream audit --help)"),
        (
            ["run", "-i", "a", "--filter", "port", "443"],
            "unrecognized arguments: 443; put the whole expression of --filter into quotes (see ",
        ),
        (
            ["cat", "a", "--where", "packets", ">10"],
            "unrecognized arguments: >10; put the whole expression of --where into quotes (see ",
        ),
        (["run", "-i", "a", "-i", "a"], "interface: a is named more than once"),
        (["run", "-i", "a/b"], "--interface: 'a/b' is not allowed; it takes a name or a glob"),
        (["run", "-i", "a", "--interval", "0"], "--interval: '0' is not allowed; it takes a num"),
        (["run", "-i", "a", "--max-flows", "1.5"], "--max-flows: '1.5' is not allowed; it takes"),
        (["run", "-i", "a", "--program", "x"], "--program: 'x' is not allowed; it takes flow or"),
        (["run", "-i", "a", "--sink", "stdout:", "--format", "msgpack"], "format: msgpack is bin"),
        (["run", "-i", "a", "--sink", "x:y"], "'x:y': unknown scheme 'x'; use kafka://"),
        (
            ["run", "-i", "a", "--sink", "b:9092"],
            "'b:9092' has no scheme; use kafka://b:9092, or file:b:9092 for a directory",
        ),
        (
            ["run", "-i", "a", "--sink", "stdout:", "--recording-size", "1GiB"],
            "recording-size: limits a recording, and the sink is stdout:; leave it out or use f",
        ),
        (["run", "--config", "/none"], "/none: cannot be read: No such file or directory"),
        (["demo", "--duration", "-1"], "--duration: '-1' is not allowed; it takes a number of"),
        (["demo", "--duration", "0"], "--duration: '0' is not allowed; it takes a number of"),
        (["demo", "--sink", "stdout:", "--format", "msgpack"], "format: msgpack is binary"),
        (["demo", "--sink", "stdout:"], "--sink: stdout: is not supported by the demo"),
        (["demo", "--format", "avro"], "--format: avro is not supported by the demo; use json, "),
        (
            ["run", "-i", "a", "--registry", "x"],
            "--registry: 'x' is not allowed; it takes http://",
        ),
        (["schema"], "the following arguments are required: FORMAT"),
        (["schema", "xml"], "argument FORMAT: invalid choice: 'xml'; use json, avro, "),
        (["schema", "jsn"], "argument FORMAT: invalid choice: 'jsn'; did you mean json?"),
        (["schema", "json", "--topic", "x"], "argument --topic: invalid choice: 'x'"),
        (["demo", "-i", "a"], "unrecognized arguments: -i a"),
        (["audit"], "the following arguments are required: URL (see flowstream audit --help)"),
        (["audit", "stdout:"], "'stdout:' cannot be read back"),
        (["audit", "kafka://a"], "'kafka://a': 'a' is not HOST:PORT"),
        (
            ["audit", "127.0.0.1:9092"],
            "'127.0.0.1:9092' has no scheme; use kafka://127.0.0.1:9092, or file:127.0.0.1:9092",
        ),
        (["cat", "a:1,[::1]:2"], "'a:1,[::1]:2' has no scheme; use kafka://a:1,[::1]:2"),
        (["audit", "x", "--topic-prefix", "a/b"], "--topic-prefix: 'a/b' is not allowed"),
        (["check", "--sink", "x:y"], "'x:y': unknown scheme 'x'"),
        (["check", "-i", ""], "--interface: '' is not allowed"),
    ],
)
def test_mistakes_are_one_line_and_status_2(refused, arguments, expected):
    assert refused(*arguments).startswith(expected)


def test_every_option_reaches_the_agent(agent_runs, tmp_path):
    file = tmp_path / "flowstream.toml"
    file.write_text('interface = ["eth7"]\nsampling = 3\npartitions = 13\n')
    arguments = [
        *("-i", "eth0", "--interface", "eth1", "--program", "counter", "--mode", "generic"),
        *("--sink", "kafka://10.0.0.1:9092", "--format", "avro", "--interval", "7"),
        *("--community-id", "--registry", "http://10.0.0.2:8081", "--names", "goflow2"),
        *("--max-flows", "65537", "--sampling", "11", "--counters-period", "2.5"),
        *("--duration", "17", "--topic-prefix", "site", "--user", "flow", "--log-level", "debug"),
        *("--log-format", "json", "--shutdown-timeout", "3", "--config", str(file)),
        *("--agent-address", "192.0.2.17", "--interface-kind", "veth", "--netns", "blue"),
        *("--netns", "pid:7", "--direction", "both", "--hook", "xdp"),
        *("--metrics", "[::1]:9435"),
    ]
    assert main(["run", *arguments]) == 0
    assert agent_runs == [
        RunConfig(
            interfaces=("eth0", "eth1"),
            interface_kinds=("veth",),
            netns=("blue", "pid:7"),
            program="counter",
            mode="generic",
            direction="both",
            hook="xdp",
            sink="kafka://10.0.0.1:9092",
            format="avro",
            names="goflow2",
            community_id=True,
            registry="http://10.0.0.2:8081",
            interval_s=7.0,
            max_flows=65_537,
            sampling=11,
            counters_period_s=2.5,
            partitions=13,
            metrics="[::1]:9435",
            duration_s=17.0,
            topic_prefix="site",
            agent_address="192.0.2.17",
            user="flow",
            log_level="debug",
            log_format="json",
            shutdown_timeout_s=3.0,
        )
    ]


@pytest.mark.parametrize("status", [0, 1])
def test_the_exit_status_is_the_commands(monkeypatch, status):
    monkeypatch.setattr(agent, "run", lambda *_: status)
    assert main(["run", "-i", "a"]) == status


def test_errors_are_one_line_and_others_keep_their_traceback(monkeypatch, capsys):
    def fail(error):
        def run(*_):
            raise error

        monkeypatch.setattr(agent, "run", run)

    fail(KernelError("no interface 'a'"))
    assert main(["run", "-i", "a"]) == 1
    assert capsys.readouterr().err == "flowstream: error: no interface 'a'\n"
    fail(KeyboardInterrupt())
    assert main(["run", "-i", "a"]) == 130
    assert capsys.readouterr().err == ""
    fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["run", "-i", "a"])


@pytest.mark.anyio
async def test_audit_prints_tables_and_its_status_says_whether_it_holds(tmp_path):
    published = Published(attachments=((3, 0), (5, 0)))
    await publish(f"file:{tmp_path}/good", "json", published)
    done = program("audit", f"{tmp_path}/good", env=os.environ | {"LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    packets = int(published.flows["packets"][:31].sum())
    assert re.search(rf"veth3 ingress +\| seen +\| +{packets + 17 + 3 + 19:,} ", done.stdout)
    assert re.search(rf"in published flows +\| +{packets:,} ", done.stdout)
    assert re.search(r"lost: overflow_lost +\| +19 +\| +1,997 ", done.stdout)
    assert re.search(r"flowstream\.flows +\| +62 \| +0-61 \| +0 \|", done.stdout)
    assert done.stdout.endswith("difference 0\n\nEvery packet is accounted for.\n")

    published.change_counters(2, losses={}, if_name="v[red]\x1b")
    await publish(f"file:{tmp_path}/bad", "json", published)
    done = program("audit", f"file:{tmp_path}/bad")
    assert (done.returncode, done.stderr) == (1, "")
    assert (
        r"does not hold: v[red]\x1b ingress: difference of +19 packets and +1,997" in done.stdout
    )
    assert done.stdout.endswith("Not every packet is accounted for.\n")

    done = program("audit", f"{tmp_path}/bad", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    assert document["holds"] is False
    assert document["runs"][0]["interfaces"][0]["difference"] == {"packets": 19, "l2_bytes": 1997}


def test_audit_of_nothing_fails(capsys, tmp_path):
    assert main(["audit", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"flowstream: error: {tmp_path}: no topic flowstream.flows, flowstream.new_flows, "
        "flowstream.counters in this recording\n"
    )
    assert main(["audit", "kafka://127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("flowstream: error: kafka://127.0.0.1:1: cannot be read: ")


def test_a_closed_pipe_is_quiet():
    for arguments in (["--help"], ["check"]):
        process = subprocess.Popen(
            [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(60) == 141


def test_a_full_disk_behind_the_output_is_reported():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "flowstream: error: standard output: No space left on device\n"


def test_an_interrupt_is_quiet():
    """The program certainly waits: for a broker that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        process = subprocess.Popen(
            [*PROGRAM, "audit", f"kafka://127.0.0.1:{broker.getsockname()[1]}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        connection, _ = broker.accept()
        with connection:
            assert connection.recv(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
