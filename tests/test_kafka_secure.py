"""Every command against brokers with TLS and SASL; no secret is in anything that they write."""

from __future__ import annotations

import base64
import re
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from broker.secure import AGENT, LISTENERS, MECHANISMS, PASSWORDS, SecureBroker
from broker.tokens import CLIENT_ID, CLIENT_SECRET, TokenEndpoint
from packets.pcap_files import pcap
from support import kafka_config
from support.agent import FLOWSTREAM, carried, flowstream
from support.net import namespace
from support.pcap_runs import packets

if TYPE_CHECKING:
    from pathlib import Path

USABLE = [
    (listener, mechanism)
    for listener, protocol in LISTENERS.items()
    if listener not in ("EXPIRED", "FOREIGN")
    for mechanism in (MECHANISMS if "SASL" in protocol else ("",))
]


def properties(
    broker: SecureBroker, listener: str, mechanism: str, endpoint: TokenEndpoint
) -> dict[str, str]:
    found = broker.settings(listener, mechanism=mechanism)
    return found | endpoint.settings if mechanism == "OAUTHBEARER" else found


def output(*command: str | Path) -> str:
    """Standard output of a command that succeeds, without a warning."""
    done = flowstream(*command)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize(("listener", "mechanism"), USABLE)
def test_every_listener(secure_broker, office, endpoint, tmp_path, listener, mechanism):
    url, prefix = secure_broker.url_of(listener), f"secure.{time.time_ns()}"
    given = properties(secure_broker, listener, mechanism, endpoint)
    config = ("--kafka-config", kafka_config.write(tmp_path / "kafka.toml", given))
    output("replay", office, "--to", url, "--rename", f"flowstream={prefix}", *config)
    shown = output("cat", url, "--topic-prefix", prefix, *config)
    assert sorted(shown.splitlines()) == sorted(output("cat", office).splitlines())


def test_every_command(secure_broker, office, endpoint, tmp_path):
    url, prefix = secure_broker.url_of("SASL"), f"secure.{time.time_ns()}"
    topics = ("--topic-prefix", prefix)
    given = properties(secure_broker, "SASL", "SCRAM-SHA-256", endpoint)
    config = ("--kafka-config", kafka_config.write(tmp_path / "kafka.toml", given))
    output("replay", office, "--to", url, "--rename", f"flowstream={prefix}", *config)
    audited = output("audit", url, "--json", *topics, *config)
    assert audited == output("audit", office, "--json").replace('"flowstream.', f'"{prefix}.')
    output("record", url, "--topic", f"{prefix}.flows", "--to", tmp_path / "copy", *config)
    copied = output("cat", tmp_path / "copy", "--topic", f"{prefix}.flows")
    assert sorted(copied.splitlines()) == sorted(output("cat", office).splitlines())
    checked = output("check", "--sink", url, *topics, *config)
    assert f"ok    topic {prefix}.flows: 5 partitions" in checked
    assert "fail" not in checked
    demonstrated = output("demo", "--duration", "1", "--sink", url, *config)
    assert "Every packet is accounted for." in demonstrated


def test_a_capture_is_published(secure_broker, endpoint, tmp_path):
    url, prefix = secure_broker.url_of("SASL"), f"secure.{time.time_ns()}"
    capture = tmp_path / "trace.pcap"
    capture.write_bytes(pcap(packets(1009)))
    given = properties(secure_broker, "SASL", "SCRAM-SHA-512", endpoint)
    config = kafka_config.write(tmp_path / "kafka.toml", given)
    options = ("--sink", url, "--topic-prefix", prefix, "--kafka-config", config)
    done = flowstream("pcap", capture, *options)
    assert done.returncode == 0, done.stderr
    assert sum(carried(secure_broker.url, prefix).values()) == 1009


WRONG = "wrong-password-of-somebody"


def forms(secret: str) -> list[str]:
    """A secret as it may be written: as it is, and as it is sent."""
    texts = [secret, f"\0{AGENT}\0{secret}", f"{AGENT}\0{AGENT}\0{secret}"]
    texts.append(f"{CLIENT_ID}:{secret}")
    coded = [base64.b64encode(text.encode()).decode() for text in texts]
    return [secret, quote(secret, safe=""), *coded, secret[1:], secret[:-1]]


SECRETS = [form for each in (*PASSWORDS.values(), CLIENT_SECRET, WRONG) for form in forms(each)]
SECRETS.append(base64.b64encode(b'{"alg"').decode().rstrip("=")[:6])  # begins each token


WORKING = ("plain", "plain, in clear", "scram", "tokens")
"""Scenes in which publishing works."""


def scenes(broker: SecureBroker, endpoint: TokenEndpoint) -> dict[str, tuple[str, dict]]:
    """By name: a URL and properties of which most do not work."""
    plain, scram, tokens = (
        properties(broker, "SASL", each, endpoint)
        for each in ("PLAIN", "SCRAM-SHA-256", "OAUTHBEARER")
    )
    sasl, bare = broker.url_of("SASL"), broker.url_of("BARE")
    other = {"ssl.ca.location": str(broker.other_authority.certificate)}
    in_clear = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    in_clear |= {"sasl.username": AGENT, "sasl.password": PASSWORDS[AGENT]}
    secret = "sasl.oauthbearer.client.secret"
    return {
        "plain": (sasl, plain),
        "plain, in clear": (bare, in_clear),
        "scram": (sasl, scram),
        "tokens": (sasl, tokens),
        "wrong password, plain": (sasl, plain | {"sasl.password": WRONG}),
        "wrong password, scram": (sasl, scram | {"sasl.password": WRONG}),
        "wrong client secret": (sasl, tokens | {secret: WRONG}),
        "no token endpoint": (
            sasl,
            tokens | {"sasl.oauthbearer.token.endpoint.url": "http://127.0.0.1:9/"},
        ),
        "untrusted authority": (sasl, scram | other),
        "plaintext to tls": (sasl, in_clear),
        "tls to plaintext": (bare, plain),
        "no broker": ("kafka://127.0.0.1:9", plain),
        "no rights": (
            sasl,
            plain | {"sasl.username": "stranger", "sasl.password": PASSWORDS["stranger"]},
        ),
        "misspelt": (sasl, plain | {"sasl.pasword": WRONG}),
        "a wrong value": (sasl, plain | {"sasl.password": f"{WRONG}\n"}),
        "contradiction": (sasl, {"sasl.username": AGENT, "sasl.password": WRONG}),
        "password in place of a name": (sasl, plain | {"security.protocol": WRONG}),
    }


def commands(office: Path, capture: Path, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """Commands that take the URL URL; ``run`` gets an interface of its own besides."""
    topics = ("--topic-prefix", f"secure.{time.time_ns()}")
    return {
        "run": ("run", "--sink", "URL", "--duration", "2", "--log-level", "debug", *topics),
        "pcap": ("pcap", str(capture), "--sink", "URL", *topics),
        "replay": ("replay", str(office), "--to", "URL", "--rename", f"flowstream={topics[1]}"),
        "record": ("record", "URL", "--topic", "t", "--to", str(tmp_path / "copy")),
        "cat": ("cat", "URL", *topics),
        "audit": ("audit", "URL", *topics),
        "check": ("check", "--sink", "URL", *topics),
    }


@pytest.mark.parametrize("command", ["run", "pcap", "replay", "record", "cat", "audit", "check"])
def test_no_secret_is_in_anything_that_is_written(
    secure_broker, office, endpoint, tmp_path, command
):
    """At level debug, whatever happens; the scenes that fail all at once, after the others."""
    capture = tmp_path / "trace.pcap"
    capture.write_bytes(pcap(packets(11)))
    arguments = commands(office, capture, tmp_path)[command]
    outputs, statuses = {}, {}
    with ExitStack() as stack:
        processes = {}
        for name, (url, given) in scenes(secure_broker, endpoint).items():
            if len(processes) == len(WORKING):
                # Many processes that start keep a broker waiting.
                statuses = {each: process.wait(120) for each, process in processes.items()}
            file = kafka_config.write(tmp_path / f"{len(outputs)}.toml", given)
            words = [url if each == "URL" else each for each in arguments]
            words += ["--kafka-config", str(file)]
            if command == "run":
                place = stack.enter_context(namespace())
                words += ["-i", "lo", "--mode", "generic", "--netns", place.name]
                words += ["--log-format", "json" if len(outputs) % 2 else "console"]
            outputs[name] = tmp_path / f"{len(outputs)}.output"
            with outputs[name].open("wb") as output:
                processes[name] = stack.enter_context(
                    subprocess.Popen([*FLOWSTREAM, *words], stdout=output, stderr=output)
                )
        statuses |= {name: process.wait(120) for name, process in processes.items()}
    for name, output in outputs.items():
        text = output.read_text(encoding="utf-8", errors="surrogateescape")
        assert [secret for secret in SECRETS if secret in text] == [], (name, text)
        # At level debug aiokafka shows one for what is no broker.
        assert "Traceback" not in text or command == "run", name
        if command in ("run", "pcap", "replay"):
            assert (statuses[name] == 0) == (name in WORKING), (name, statuses[name], text)
            assert text, name


def test_debug_shows_requests_without_what_logs_in(secure_broker, endpoint, tmp_path):
    """The test above would pass if nothing were logged."""
    given = properties(secure_broker, "SASL", "PLAIN", endpoint)
    file = kafka_config.write(tmp_path / "kafka.toml", given)
    url, prefix = secure_broker.url_of("SASL"), f"secure.{time.time_ns()}"
    with namespace() as place:
        done = flowstream(
            *("run", "-i", "lo", "--mode", "generic", "--netns", place.name, "--duration", "1"),
            *("--sink", url, "--topic-prefix", prefix),
            *("--kafka-config", file, "--log-level", "debug", "--log-format", "console"),
        )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Request to 127\.0\.0\.1:\d+ \d+: SaslAuthenticateRequest\w*\s", done.stderr)
    assert "MetadataRequest" in done.stderr
