"""Credentials of an agent that runs as nobody: files of root, and files that change meanwhile."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker.secure import AGENT, PASSWORDS, SecureBroker
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from support import kafka_config
from support.agent import Agent, audited, carried, delivered, on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.net import Interface

PACKETS = 10_007
FLOWS = 101


@pytest.fixture
def own_broker() -> Iterator[SecureBroker]:
    """A broker that the test may stop, and whose users it may change."""
    with SecureBroker() as broker:
        yield broker


def install(source: Path | str, target: Path, mode: int) -> Path:
    """Replace a file by renaming, as tools for certificates and secrets do."""
    new = target.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(source.read_bytes() if isinstance(source, Path) else source.encode())
    new.chmod(mode)
    return new.rename(target)


def options(broker: SecureBroker, listener: str, config: Path, receiver: Interface) -> list[str]:
    sink = ["--sink", broker.url_of(listener), "--kafka-config", str(config)]
    return [*on(receiver), *sink, "--interval", "0.2", "--user", "nobody"]


def mutual(broker: SecureBroker, place: Path, mode: int = 0o644) -> dict[str, str]:
    """Properties of the listener that asks for a certificate; the files are in ``place``."""
    identity = broker.client
    files = {"ca": broker.authority.certificate, "crt": identity.certificate, "key": identity.key}
    for name, source in files.items():
        install(source, place / name, mode)
    return {
        "security.protocol": "SSL",
        "ssl.ca.location": str(place / "ca"),
        "ssl.certificate.location": str(place / "crt"),
        "ssl.key.location": str(place / "key"),
    }


def scram(broker: SecureBroker, place: Path, mode: int = 0o644) -> dict[str, str]:
    """Properties of a login by a password in a file."""
    install(broker.authority.certificate, place / "ca", 0o644)
    password = install(PASSWORDS[AGENT] + "\n", place / "password", mode)
    return broker.settings("SASL") | {
        "ssl.ca.location": str(place / "ca"),
        "sasl.password": f"file:{password}",
    }


@pytest.mark.parametrize("kind", ["certificate", "password"])
def test_files_that_only_root_can_read_are_refused_before_anything_is_attached(
    wire, secure_broker, place, kind
):
    make = mutual if kind == "certificate" else scram
    config = kafka_config.write(place / "kafka.toml", make(secure_broker, place, 0o600))
    listener = "MTLS" if kind == "certificate" else "SASL"
    with Agent(*options(secure_broker, listener, config, wire.receiver)) as agent:
        assert agent.wait() == 2
        assert not agent.logs("attached")
        name, file = {
            "certificate": ("ssl.ca.location", place / "ca"),
            "password": ("sasl.password", place / "password"),
        }[kind]
        (line,) = agent.output().splitlines()
    assert line == (
        f"flowstream: error: {name}: {file}: the user nobody cannot read it, so it could not be "
        f"read again when it changes: setfacl -m u:nobody:r {file}, name another --user, or use "
        "systemd's LoadCredential="
    )


def test_the_configuration_itself_may_be_roots(wire, secure_broker, place):
    sender, receiver = wire
    given = scram(secure_broker, place) | {"sasl.password": PASSWORDS[AGENT]}
    config = kafka_config.write(place / "kafka.toml", given, 0o600)
    prefix = f"secure.{time.time_ns()}"
    given_options = options(secure_broker, "SASL", config, receiver)
    with Agent(*given_options, "--topic-prefix", prefix) as agent:
        agent.publishing()
        assert agent.status("Uid") == {"\t".join(["65534"] * 4)}
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
        assert not agent.logs("kafka_secret_exposed")
    (interface,) = audited(secure_broker.url, prefix)
    assert interface["seen"]["packets"] == arrived
    assert sum(carried(secure_broker.url, prefix).values()) == arrived


def test_systemds_credentials_are_read_once(wire, secure_broker, place, monkeypatch):
    """As systemd leaves them: the directory and its files are readable by root alone."""
    credentials = place / "credentials"
    credentials.mkdir(mode=0o700)
    mutual(secure_broker, credentials, 0o400)
    credentials.chmod(0o500)
    config = kafka_config.write(
        place / "kafka.toml",
        {
            "security.protocol": "SSL",
            "ssl.ca.location": "${CREDENTIALS_DIRECTORY}/ca",
            "ssl.certificate.location": "${CREDENTIALS_DIRECTORY}/crt",
            "ssl.key.location": "${CREDENTIALS_DIRECTORY}/key",
        },
    )
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    sender, receiver = wire
    prefix = f"secure.{time.time_ns()}"
    given = options(secure_broker, "MTLS", config, receiver)
    with Agent(*given, "--topic-prefix", prefix) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
        assert not agent.logs("kafka_credentials_not_reloaded")
    (interface,) = audited(secure_broker.url, prefix)
    assert interface["seen"]["packets"] == arrived


def test_exposed_secrets_are_warned_of(wire, secure_broker, place):
    given = mutual(secure_broker, place, 0o644)
    config = kafka_config.write(place / "kafka.toml", given)
    arguments = options(secure_broker, "MTLS", config, wire.receiver)
    with Agent(*arguments, "--topic-prefix", f"secure.{time.time_ns()}") as agent:
        agent.publishing()
        (warning,) = agent.logs("kafka_secret_exposed")
        agent.stop()
    assert warning["file"] == f"{place}/key"
    assert (warning["mode"], warning["remedy"]) == ("0o644", f"chmod o-rwx {place}/key")


def test_a_certificate_is_replaced_while_the_agent_runs(wire, own_broker, place):
    sender, receiver = wire
    config = kafka_config.write(place / "kafka.toml", mutual(own_broker, place))
    with Agent(*options(own_broker, "MTLS", config, receiver)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        renewed = own_broker.authority.issue(AGENT)
        install(renewed.certificate, place / "crt", 0o644)
        install(renewed.key, place / "key", 0o644)
        own_broker.restart(signal.SIGKILL)
        assert agent.saw("kafka_credentials_reloaded", 60), agent.output()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(own_broker.url)
    assert interface["seen"]["packets"] == arrived
    # What was sent after the restart is there; what was on its way before it may be lost.
    assert interface["flows"]["packets"] >= PACKETS


def test_a_password_is_changed_while_the_agent_runs(wire, own_broker, place):
    sender, receiver = wire
    config = kafka_config.write(place / "kafka.toml", scram(own_broker, place))
    with Agent(*options(own_broker, "SASL", config, receiver)) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        change_password(own_broker, AGENT, "another password")
        install("another password", place / "password", 0o644)
        own_broker.restart(signal.SIGKILL)
        assert agent.saw("kafka_credentials_reloaded", 60), agent.output()
        arrived += delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
        assert "another password" not in agent.output()
    (interface,) = audited(own_broker.url)
    assert interface["seen"]["packets"] == arrived
    # What was sent after the restart is there; what was on its way before it may be lost.
    assert interface["flows"]["packets"] >= PACKETS


def change_password(broker: SecureBroker, user: str, password: str) -> None:
    """Replace the password for SCRAM-SHA-256."""
    admin = AdminClient({"bootstrap.servers": broker.address})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    change = UserScramCredentialUpsertion(user, info, password.encode())
    admin.alter_user_scram_credentials([change])[user].result(30)
