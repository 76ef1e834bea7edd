"""Each command against brokers that refuse it: one line says why, and what to do."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker.secure import READER, STRANGER, SecureBroker
from broker.topics import create
from confluent_kafka.admin import NewTopic
from support import kafka_config
from support.agent import FLOWSTREAM
from support.net import namespace
from support.outcomes import new_topic

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPTURE = Path(__file__).parent / "traces" / "mapi.pcap"


@pytest.fixture(scope="module")
def prefix(secure_broker: SecureBroker) -> str:
    """Prefix of empty topics."""
    name = new_topic()
    topics = [f"{name}.{stream}" for stream in ("flows", "new_flows", "counters")]
    create(secure_broker, *(NewTopic(topic, 6) for topic in topics))
    return name


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "recording"
    command = [*FLOWSTREAM, "pcap", str(CAPTURE), "--sink", f"file:{path}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def commands(recording: Path, prefix: str, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """Commands by name; the URL is put in place of URL."""
    topics = ("--topic-prefix", prefix)
    return {
        "run": ("run", "-i", "lo", "--mode", "generic", "--sink", "URL", *topics),
        "pcap": ("pcap", str(CAPTURE), "--sink", "URL", *topics),
        "replay": ("replay", str(recording), "--to", "URL", "--rename", f"flowstream={prefix}"),
        "record": ("record", "URL", "--topic", f"{prefix}.flows", "--to", f"{tmp_path}/copy"),
        "cat": ("cat", "URL", *topics),
        "audit": ("audit", "URL", *topics),
        "check": ("check", "--sink", "URL", *topics),
    }


def said(command: tuple[str, ...], url: str, properties: dict[str, str], file: Path) -> str:
    """The only line about an error that a command writes; it fails."""
    config = kafka_config.write(file, properties)
    words = [url if each == "URL" else each for each in command]
    with ExitStack() as stack:
        if "run" in words:
            words += ["--netns", stack.enter_context(namespace()).name]
        done = subprocess.run(
            [*FLOWSTREAM, *words, "--kafka-config", str(config)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    (line,) = [each for each in lines if each.startswith(("flowstream: error: ", "fail  "))][:1]
    return line


WRONG_LOGIN = (
    "refuses the user agent or the password (SCRAM-SHA-256)",
    "correct sasl.username and sasl.password, or the account on the broker",
)
UNTRUSTED = (
    (
        "has a certificate of an authority that is not trusted here "
        "(unable to get local issuer certificate)"
    ),
    "set ssl.ca.location to the certificate of its authority",
)
NO_CERTIFICATE = (
    "requires a certificate of the client",
    "set ssl.certificate.location and ssl.key.location",
)
NO_TLS = ("requires TLS", "set security.protocol=SSL, or SASL_SSL with SASL")


def unusable(
    broker: SecureBroker, command: str
) -> Iterator[tuple[str, str, dict[str, str], tuple[str, str]]]:
    """Step, listener, properties, text and remedy; test_kafka_diagnosis.py has all faults."""
    wrong = broker.settings("SASL") | {"sasl.password": "wrong"}
    yield "SASL", "SASL", wrong, WRONG_LOGIN
    other = broker.settings("TLS") | {"ssl.ca.location": str(broker.other_authority.certificate)}
    yield "TLS", "TLS", other, UNTRUSTED
    if command not in ("run", "check"):
        return
    yield "TLS", "MTLS", broker.settings("TLS"), NO_CERTIFICATE
    yield "connect", "TLS", {}, NO_TLS


@pytest.mark.parametrize("command", ["run", "pcap", "replay", "record", "cat", "audit", "check"])
def test_a_listener_that_cannot_be_used(
    secure_broker: SecureBroker, recording: Path, prefix: str, tmp_path: Path, command: str
) -> None:
    words = commands(recording, prefix, tmp_path)[command]
    for step, listener, properties, (text, remedy) in unusable(secure_broker, command):
        url = secure_broker.url_of(listener)
        address = url.removeprefix("kafka://")
        if command == "check":
            expected = f"fail  {step} {address}: {text} -> {remedy}"
        else:
            reading = "" if command in ("run", "pcap", "replay") else "cannot be read: "
            expected = f"flowstream: error: {url}: {reading}{address} {text}; {remedy}"
        assert said(words, url, properties, tmp_path / "kafka.toml") == expected


def login(broker: SecureBroker, user: str) -> dict[str, str]:
    return broker.settings("SASL", user)


NOT_WRITTEN = (
    "flowstream: error: URL: the cluster refuses this producer: user USER is not "
    "authorised; allow it Write on the topics, or IdempotentWrite on the cluster"
)
NO_TOPIC = "flowstream: error: URL: no topic {}, or user stranger is not authorised to describe it"
NOT_IDEMPOTENT = (
    "fail  idempotent writing: not allowed -> allow Write on the topics, or IdempotentWrite on "
    "the cluster"
)


@pytest.mark.parametrize(
    ("user", "command", "expected"),
    [
        (STRANGER, "run", NOT_WRITTEN),
        (STRANGER, "pcap", NOT_WRITTEN),
        (STRANGER, "replay", NOT_WRITTEN),
        (STRANGER, "record", NO_TOPIC.format("PREFIX.flows")),
        (STRANGER, "cat", NO_TOPIC.format("PREFIX.flows")),
        (
            *(STRANGER, "audit"),
            NO_TOPIC.format("PREFIX.flows, PREFIX.new_flows, PREFIX.counters"),
        ),
        (STRANGER, "check", NOT_IDEMPOTENT),
        (READER, "run", NOT_WRITTEN),
        (READER, "pcap", NOT_WRITTEN),
        (READER, "replay", NOT_WRITTEN),
        (READER, "check", NOT_IDEMPOTENT),
    ],
)
def test_a_client_without_the_right(
    secure_broker, recording, prefix, tmp_path, user, command, expected
) -> None:
    url = secure_broker.url_of("SASL")
    words = commands(recording, prefix, tmp_path)[command]
    line = said(words, url, login(secure_broker, user), tmp_path / "kafka.toml")
    assert line == expected.replace("URL", url).replace("PREFIX", prefix).replace("USER", user)
