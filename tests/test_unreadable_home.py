"""Installed where ``--user`` cannot read, as below /root: all code is loaded beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.agent import audited, carried
from support.net import Interface, namespace

import flowstream

SOURCES = Path(flowstream.__file__).parents[1]
STDLIB = Path(sysconfig.get_path("stdlib"))

# In a mount namespace of its own, which goes with the process: nothing is copied.
SCRIPT = """
set -e
home=$1; shift
chmod 700 $home
bind() { mkdir -p $home/$2; mount --bind $1 $home/$2; }
bind $SOURCES sources
bind $VENV venv
bind $STDLIB python/lib/$(basename $STDLIB)
export PYTHONHOME=$home/python PYTHONDONTWRITEBYTECODE=1
cd $home/sources
exec $home/venv/bin/python "$@"
"""


@pytest.fixture
def home(tmp_path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def at_home(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with an installation of everything below ``home``, which is root's alone."""
    places = {"SOURCES": str(SOURCES), "VENV": sys.prefix, "STDLIB": str(STDLIB)}
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(home), *arguments],
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run(home: Path, place: Interface, *options: str) -> str:
    """Run the agent for a second under traffic, without a complaint; return its output."""
    where = ("-i", place.name, "--netns", place.namespace.name, "--mode", "generic")
    traffic = place.namespace.popen(
        "ping", "-q", "-i", "0.1", "-c", "31", "127.0.0.1", stdout=subprocess.DEVNULL
    )
    with traffic:
        done = at_home(home, "-m", "flowstream", "run", *where, "--duration", "1", *options)
        traffic.kill()
    assert done.returncode == 0, done.stderr
    for bad in ("Traceback", "exception", "Error", 'failed"', "warning", "denied"):
        assert bad not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def loopback():
    with namespace() as place:
        yield Interface(place, "lo", 1)


def test_nobody_can_read_it(home):
    code = """
import os, flowstream, json, aiokafka
print(flowstream.__file__, json.__file__, aiokafka.__file__)
os.setuid(65534)
import wave
"""
    done = at_home(home, "-c", code)
    assert len(done.stdout.split()) == 3
    assert all(Path(path).is_relative_to(home) for path in done.stdout.split())
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize(
    ("sink", "options"),
    [
        ("file", ("--format", "json", "--community-id")),
        ("file", ("--format", "msgpack", "--program", "counter")),
        ("file", ("--format", "protobuf")),
        ("file", ("--format", "avro", "--registry", "URL")),
        ("kafka", ("--format", "json", "--community-id")),
        ("kafka", ("--format", "protobuf", "--registry", "URL")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_run_publishes_to_its_end(home, loopback, registry, request, sink, options):
    url, prefix = f"file:{home}/recording", f"home.{options[1]}"
    if sink == "kafka":
        url = request.getfixturevalue("broker").url
    options = [registry.url if option == "URL" else option for option in options]
    run(home, loopback, *options, "--sink", url, "--topic-prefix", prefix)
    (interface,) = audited(url, prefix)
    assert interface["seen"]["packets"] > 0
    if "counter" not in options:
        assert interface["flows"]["packets"] == sum(carried(url, prefix).values()) > 0


def test_lines_are_written_to_the_end(home, loopback):
    output = run(home, loopback, "--sink", "stdout:", "--names", "ecs")
    records = [json.loads(line) for line in output.splitlines()]
    flows = [each for each in records if each.get("flowstream", {}).get("record_type") == 1]
    (final,) = (each for each in records if each.get("final"))
    assert sum(each["network"]["packets"] for each in flows) == final["seen_packets"] > 0


def test_the_demonstration_verifies_the_count(home):
    sink = f"file:{home}/recording"
    done = at_home(home, "-m", "flowstream", "demo", "--duration", "1", "--sink", sink)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nEvery packet is accounted for.\n" in done.stdout
    (interface,) = audited(sink, "flowstream-demo")
    assert interface["flows"]["packets"] == sum(carried(sink, "flowstream-demo").values()) > 0
