"""What the Debian package is made of: the units, and the configuration with every option."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from flowstream.config.run import OPTIONS, RunConfig, values_of
from flowstream.config.source import ConfigSource
from flowstream.kafka.configuration import from_table
from flowstream.kafka.properties import PROPERTIES
from tools import configuration, deb

TOP = Path(__file__).parent.parent
UNITS = TOP / "packaging" / "systemd"
UNIT = (UNITS / "flowstream.service").read_text(encoding="utf-8")
TEMPLATE = (UNITS / "flowstream@.service").read_text(encoding="utf-8")
SECURITY = (TOP / "docs" / "security.md").read_text(encoding="utf-8")
TEXT = configuration.text()
FILE = Path("flowstream.toml")
MOST_EXPOSED = 2.0


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", ["flowstream.service", "flowstream@.service"])
def test_the_exposure_of_a_service_is_low_and_documented(name):
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) <= MOST_EXPOSED
    assert f"exposure of {found[1]} " in SECURITY


def test_the_template_is_the_same_service_with_places_of_its_own():
    places = {
        "flowstream.toml": "%i.toml",
        "/bpf/flowstream": "/bpf/flowstream-%i",
        "%S/flowstream": "%S/flowstream-%i",
    }
    expected = settings(UNIT)
    for key, values in expected.items():
        for before, after in places.items():
            values[:] = [each.replace(before, after) for each in values]
        if key in ("StateDirectory", "RuntimeDirectory"):
            assert values == ["flowstream"]
            values[:] = ["flowstream-%i"]
    expected["Description"] = [f"{expected['Description'][0]}, by %i.toml"]
    assert settings(TEMPLATE) == expected


def test_nothing_of_a_service_is_root():
    found = settings(UNIT)
    assert found["User"] == ["flowstream"]
    assert found["AmbientCapabilities"] == found["CapabilityBoundingSet"]
    assert set(found["AmbientCapabilities"][0].split()) == {
        "CAP_BPF",
        "CAP_DAC_READ_SEARCH",
        "CAP_NET_ADMIN",
        "CAP_PERFMON",
    }


def test_a_service_can_read_what_the_metrics_of_its_process_are_made_of():
    """prometheus_client has none without /proc/stat, and an alert counts restarts by them."""
    assert "ProcSubset" not in settings(UNIT)


def test_a_service_may_take_as_long_as_the_end_of_a_run():
    (stop,) = settings(UNIT)["TimeoutStopSec"]
    assert float(stop) > OPTIONS["shutdown_timeout_s"].default


def test_the_configuration_in_force_is_the_default_but_for_pins(tmp_path):
    file = tmp_path / "flowstream.toml"
    file.write_text(TEXT, encoding="utf-8")
    assert ConfigSource({}, file).config == RunConfig(pin="/sys/fs/bpf/flowstream")


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """A directory with the files of secrets that the configuration names."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in re.findall(r'"file:.*/([\w-]+)"', TEXT):
        (tmp_path / name).write_text("secret\n", encoding="utf-8")
    return tmp_path


def test_every_option_is_there_with_its_default_or_an_example(secrets):
    text = re.sub(r"^#(?=[\w\[])", "", TEXT, flags=re.MULTILINE)
    table = tomllib.loads(text.replace("/etc/flowstream/", f"{secrets}/"))
    found = values_of(table, FILE)
    assert found.keys() == OPTIONS.keys()
    examples = {OPTIONS[field].name for field in found if found[field] != OPTIONS[field].default}
    assert examples == configuration.EXAMPLES.keys() | configuration.CHOSEN.keys()
    assert from_table(table["kafka"], "kafka", FILE).keys() == PROPERTIES.keys()


def test_an_agent_for_kafka_is_made_by_uncommenting(secrets):
    names = (
        *("interface", "sink", "spool", "spool-size", r"\[kafka\]", "security.protocol"),
        *("sasl.mechanism", "sasl.username", "sasl.password"),
    )
    text = re.sub(rf"^#(?=({'|'.join(names)})( = |$))", "", TEXT, flags=re.MULTILINE)
    file = secrets / "flowstream.toml"
    file.write_text(text, encoding="utf-8")
    config = ConfigSource({}, file).config
    assert config.interfaces == ("eth0", "ens*", "!ens7")
    assert config.spool == "/var/lib/flowstream/spool"
    assert config.kafka.sasl


def test_lists_of_installed_files_have_what_is_installed_alone(tmp_path):
    """The digest of what was removed would be that of a path on the machine that builds."""
    about = tmp_path / "a-1.dist-info"
    about.mkdir()
    for each in (tmp_path / "a,b.py", about / "METADATA"):
        each.write_text("", encoding="utf-8")
    stays = '"a,b.py",sha256=x,0\na-1.dist-info/METADATA,sha256=y,0\na-1.dist-info/RECORD,,\n'
    gone = "../../bin/a,sha256=z,179\na-1.dist-info/direct_url.json,sha256=w,256\n"
    record = about / "RECORD"
    record.write_text(gone + stays, encoding="utf-8")
    deb.forget_removed(tmp_path)
    assert record.read_text(encoding="utf-8") == stays
