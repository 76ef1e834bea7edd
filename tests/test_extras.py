"""The package with msgspec alone: what a consumer installs, and what it says of the rest."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import msgspec
import pytest
from support import hidden
from support.outcomes import Account
from support.records import EPOCH, SAMPLER, flow_records

from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder, stamp
from flowstream.errors import DecodeError, FlowstreamError, MissingExtraError
from flowstream.extras import requires
from flowstream.messages import Message, MessageBatch
from flowstream.segments.sink import SegmentSink
from flowstream.streams import Stream
from flowstream.testing import FlowFactory
from tools.lower_bounds import FOR_DEVELOPMENT

TOP = Path(__file__).parent.parent
IDENTITY = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {3: "eth0"})
READING = (
    *("flowstream.records", "flowstream.cli.main", "flowstream.schemas", "flowstream.source"),
    *("flowstream.reading", "flowstream.segments.source"),
    *("flowstream.testing", "flowstream.testing.plugin"),
)
COMMANDS = {
    "run -i lo": "agent",
    "demo": "agent",
    "pcap none.pcap": "agent",
    "check -i lo": "agent",
    "audit none": "audit",
    "report none -o none.html": "report",
    "top none --once": "top",
    "record kafka://127.0.0.1:9 --topic t --to none": "kafka",
    "cat kafka://127.0.0.1:9": "kafka",
    "replay none --to kafka://127.0.0.1:9": "kafka",
}
"""Command and the extra that it needs."""


def values() -> dict[str, bytes]:
    """The same flow record in the formats that need no extra."""
    records = flow_records(1, if_index=3, packets=1_009, bytes=2**53 + 1)
    stamp(records, IDENTITY, 17)
    return {name: make_encoder(name, IDENTITY).encode(records)[0] for name in ("json", "msgpack")}


def program(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that can import the tests' helpers."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": str(TOP / "tests"), "PATH": os.environ["PATH"]},
    )


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which the libraries are hidden."""
    hide = "import pytest; from support import hidden; hidden.hide(*hidden.LIBRARIES)\n"
    return program(hide + code)


@pytest.mark.parametrize("system", ["linux", "windows"])
@pytest.mark.parametrize("module", READING)
def test_reading_needs_no_library_and_no_linux(module: str, system: str) -> None:
    windows = "hidden.be_windows()" if system == "windows" else ""
    done = python(f"{windows}\nimport {module}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_decoding_and_schemas_need_no_library(system: str) -> None:
    windows = "hidden.be_windows()" if system == "windows" else ""
    code = f"""{windows}
from flowstream.cli.main import main
from flowstream.records import decode
for value in {list(values().values())!r}:
    assert decode(value).bytes == 2**53 + 1
from flowstream.schemas import FORMATS
for form in FORMATS:
    assert main(["schema", form]) == 0
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"title": "flowstream flow record in MessagePack"' in done.stdout


@pytest.mark.parametrize(("command", "extra"), COMMANDS.items(), ids=COMMANDS)
def test_a_command_names_its_extra_in_one_line(command: str, extra: str) -> None:
    done = python(
        f"from flowstream.cli.main import main; sys = __import__('sys')\n"
        f"sys.exit(main({command.split()!r}))"
    )
    assert (done.returncode, done.stdout) == (2, "")
    name = command.partition(" ")[0]
    # A recording without values needs no library, so cat finds out later than others.
    subject = "reading kafka://127.0.0.1:9" if name == "cat" else name
    says = f"flowstream: error: {subject} requires: pip install 'flowstream[{extra}]' (No module"
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["run -i lo", "check -i lo", "pcap none.pcap"])
def test_the_agent_says_that_a_system_is_not_supported(command: str) -> None:
    code = f"""
import sys
from support import hidden
from support.outcomes import Account
hidden.be_windows()
from flowstream.cli.main import main
sys.exit(main({command.split()!r}))
"""
    done = program(code)
    assert (done.returncode, done.stdout) == (1, "")
    name = command.partition(" ")[0]
    assert done.stderr.startswith(f"flowstream: error: {name} is not supported on this system: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "module",
    [
        *("flowstream.audit", "flowstream.report", "flowstream.recording"),
        "flowstream.testing.fixtures",
    ],
)
def test_with_their_extras_reading_and_testing_need_no_linux(module: str) -> None:
    code = f"""
import aiokafka, aiokafka.admin, numpy, rich.console, rich.progress, structlog
from support import hidden
from support.outcomes import Account
hidden.be_windows()
import {module}
"""
    done = program(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("use", ["FlowFactory", "plugin"])
def test_the_fixtures_name_their_extra(use: str) -> None:
    code = {
        "FlowFactory": "from flowstream.testing import FlowFactory",
        "plugin": "from flowstream.testing.plugin import _fixtures\n"
        "class Config:\n    def getoption(self, name): return None\n"
        "next(_fixtures(Config(), None))",
    }[use]
    done = python(code)
    assert done.returncode == 1
    (*_, last) = done.stderr.splitlines()
    assert last.startswith("flowstream.errors.MissingExtraError: ")
    assert "requires: pip install 'flowstream[testing]'" in last


@pytest.mark.parametrize(("form", "library"), [("protobuf", "google"), ("avro", "fastavro")])
def test_readers_of_a_recording_name_the_place_and_the_extra(
    form: str, library: str, tmp_path: Path
) -> None:
    """The audit and the fixture, of values that are all good."""
    asyncio.run(record(tmp_path, FlowFactory().messages(FlowFactory().batch(7), form)))
    place = "topic flowstream.flows, partition "
    says = f": {form} requires: pip install 'flowstream[readers]' ("
    hide = f"from support import hidden; hidden.hide({library!r}); import sys\n"
    for code, status in {
        f"from flowstream.cli.main import main; sys.exit(main(['audit', {str(tmp_path)!r}]))": 2,
        f"from pathlib import Path; from flowstream.testing import Recording; "
        f"Recording(Path({str(tmp_path)!r})).records()": 1,
    }.items():
        done = program(hide + code)
        (*_, last) = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (status, "")
        assert place in last
        assert says in last


async def record(directory: Path, messages: list[Message]) -> None:
    """Write messages into a recording, with the other topics empty."""
    topics = [f"flowstream.{stream}" for stream in Stream]
    sink = SegmentSink(directory, Account(), partitions=6)
    await sink.start(topics)
    for message in messages:
        await sink.send(MessageBatch.copy_of([message]))
    await sink.flush(60)
    await sink.close(5)
    assert sink.fault is None


def test_a_missing_extra_is_no_bad_record() -> None:
    assert not issubclass(MissingExtraError, DecodeError | ValueError)


def test_only_missing_libraries_are_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), requires("agent", "it"):
        import flowstream.nothing  # type: ignore[import-not-found]  # noqa: F401
    with (
        pytest.raises(MissingExtraError, match=r"^it requires: pip install 'flowstream\[agent\]'"),
        requires("agent", "it"),
    ):
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401
    with (
        pytest.raises(FlowstreamError, match=r"^it is not supported on this system: "),
        requires("agent", "it"),
    ):
        import winreg  # noqa: F401
    error = MissingExtraError("readers", "avro", "why").at("topic t, partition 0, offset 7")
    says = "topic t, partition 0, offset 7: avro requires: pip install 'flowstream[readers]' (why)"
    assert str(error) == says


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel and its own requirements, nothing else."""
    directory = tmp_path_factory.mktemp("slim")
    # setuptools writes into the tree that it builds.
    tree = directory / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "flowstream"):
        subprocess.run(["cp", "-r", TOP / name, tree], check=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", directory, tree)
    subprocess.run([*pip, *build], check=True, timeout=120, capture_output=True)
    (wheel,) = directory.glob("flowstream-*.whl")
    venv.create(directory / "venv")
    for package in Path(msgspec.__file__).parent.parent.glob("msgspec*"):
        (site,) = (directory / "venv" / "lib").glob("python*/site-packages")
        subprocess.run(["cp", "-r", package, site], check=True)
    into = ("--python", directory / "venv" / "bin" / "python")
    # It resolves the wheel's own requirements: anything but msgspec would be missing.
    subprocess.run(
        [*pip, *into, "install", "--no-index", wheel], check=True, timeout=120, capture_output=True
    )
    return directory / "venv" / "bin"


def bare(*command: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program without anything of this environment."""
    return subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=60, env={}, cwd="/"
    )


def test_the_wheel_and_msgspec_are_enough(slim: Path) -> None:
    listed = bare(
        slim / "python",
        "-I",
        "-c",
        "import importlib.metadata as m; print(sorted(d.name for d in m.distributions()))",
    )
    assert listed.stdout.decode().strip() == "['flowstream', 'msgspec']"
    code = (
        "import sys; from flowstream.records import decode; "
        "print(decode(sys.stdin.buffer.read()).bytes)"
    )
    for value in values().values():
        done = bare(slim / "python", "-I", "-c", code, stdin=value)
        assert (done.stdout, done.stderr) == (f"{2**53 + 1}\n".encode(), b"")
    program = slim / "flowstream"
    done = bare(program, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    done = bare(program, "schema", "json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert msgspec.json.decode(done.stdout)["title"] == "flowstream flows"


@pytest.mark.parametrize(("command", "extra"), COMMANDS.items(), ids=COMMANDS)
def test_the_wheel_alone_names_the_extra(slim: Path, command: str, extra: str) -> None:
    done = bare(slim / "flowstream", *command.split())
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"requires: pip install 'flowstream[{extra}]'" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_libraries_of_the_extras_are_those_hidden() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = {each for extra in extras if extra not in FOR_DEVELOPMENT for each in extras[extra]}
    packages = {each.partition(">")[0] for each in required}
    modules = {each.replace("-", "_") for each in packages - {"protobuf"}}
    assert modules | {"google", "bcc"} == set(hidden.LIBRARIES)
