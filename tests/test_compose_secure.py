"""The example of compose/secure.yaml: its secrets, its broker's settings, its agent's rights."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker import Broker, java
from support.agent import FLOWSTREAM, Agent, delivered, on

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE = Path(__file__).parents[1] / "compose"
PLACE = "/run/flowstream"


@pytest.fixture(scope="module")
def secrets() -> Iterator[Path]:
    """What the service ``secrets`` makes, in a directory that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        subprocess.run(["sh", COMPOSE / "secrets.sh", path], check=True, capture_output=True)
        yield path


def services(file: str = "secure.yaml") -> dict[str, str]:
    """Text of each service."""
    text = (COMPOSE / file).read_text(encoding="utf-8")
    _, _, text = text.partition("\nservices:\n")
    parts = re.split(r"(?m)^  (\w+):\n", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def broker_settings(secrets: Path) -> dict[str, str]:
    """The broker's properties, as its image makes them from the environment."""
    found = {}
    for name, value in re.findall(r"(?m)^ +KAFKA_(\w+): (.*)$", services()["kafka"]):
        dotted = name.replace("___", "-").replace("_", ".").lower()
        found[dotted] = value.replace(PLACE, str(secrets))
    del found["listener.security.protocol.map"]
    return found


def tool(broker: Broker, kind: str, command: str, password: str) -> None:
    """Run a tool of Kafka as the service ``users`` does."""
    words = re.search(rf"\./{command} (.*?[^\\])\n", services()["users"], re.DOTALL)
    assert words
    text = words[1].replace(f"$$(cat {PLACE}/password)", password)
    text = re.sub(r"\\\n\s*", " ", text).replace("kafka:19092", broker.address)
    subprocess.run(
        java(kind, *text.replace('"', "").split()), check=True, capture_output=True, timeout=60
    )


def command_of(file: str) -> list[str]:
    """Words of the agent's command."""
    text = services(file)["agent"].partition("    command:\n")[2]
    return [
        line.removeprefix("      - ")
        for line in re.split(r"\n    \w", text)[0].splitlines()
        if line.startswith("      - ")
    ]


def test_its_agent_has_every_option_of_the_example_without_tls() -> None:
    plain, secure = set(command_of("compose.yaml")), set(command_of("secure.yaml"))
    assert "--spool=/var/lib/flowstream/spool" in plain
    assert secure == plain | {"--kafka-config=/etc/flowstream/kafka.toml"}


def test_secrets_are_made_once(secrets: Path) -> None:
    password = (secrets / "password").read_text(encoding="ascii")
    assert re.fullmatch(r"[A-Za-z0-9+/]{24}\n", password)
    modes = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in
             secrets.iterdir()}  # fmt: skip
    assert modes == {"broker.p12": (1000, 0o600), "ca.pem": (0, 0o644), "password": (0, 0o640)}
    assert (secrets / "password").stat().st_gid == 65534
    subprocess.run(["sh", COMPOSE / "secrets.sh", secrets], check=True)
    assert (secrets / "password").read_text(encoding="ascii") == password


def test_the_agent_publishes_and_may_audit(wire, secrets: Path, tmp_path: Path) -> None:
    sender, receiver = wire
    config = tmp_path / "kafka.toml"
    text = (COMPOSE / "secure.toml").read_text(encoding="utf-8")
    config.write_text(text.replace(PLACE, str(secrets)), encoding="utf-8")
    password = (secrets / "password").read_text(encoding="ascii").strip()
    with Broker(broker_settings(secrets), listeners={"HOST": "SASL_SSL"}) as broker:
        tool(broker, "kafka.admin.ConfigCommand", "kafka-configs.sh", password)
        tool(broker, "org.apache.kafka.tools.AclCommand", "kafka-acls.sh", password)
        url = f"kafka://127.0.0.1:{broker.ports['HOST']}"
        options = ("--sink", url, "--kafka-config", config, "--interval", 0.2)
        with Agent(*on(receiver), *options) as agent:
            agent.publishing()
            arrived = delivered(sender, receiver, 10_007, "-f", 101)
            agent.stop()
            assert not agent.logs("kafka_secret_exposed")
        command = [*FLOWSTREAM, "audit", url, "--kafka-config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"holds: {arrived:,} packets" in done.stdout
