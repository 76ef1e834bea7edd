"""TLS and logins where ``--user`` cannot read Python: their code is loaded beforehand, too."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from support import kafka_config
from support.home import Home
from support.net import namespace
from support.outcomes import new_topic

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from broker.secure import SecureBroker
    from broker.tokens import TokenEndpoint

NOBODY = 65_534


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def login(broker: SecureBroker, mechanism: str, endpoint: TokenEndpoint) -> dict[str, str]:
    found = broker.settings("SASL", mechanism=mechanism)
    return found | endpoint.settings if mechanism == "OAUTHBEARER" else found


def run(
    home: Home, url: str, properties: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run an agent to its end; it imported nothing after it had given up root."""
    config = kafka_config.write(home.path / "kafka.toml", properties)
    with namespace() as place:
        where = ("-i", "lo", "--mode", "generic", "--netns", place.name)
        sink = ("--sink", url, "--kafka-config", str(config), "--topic-prefix", new_topic())
        done = home.run("-m", "flowstream", "run", *where, *sink, *options)
    assert home.late_imports() == [], done.stderr
    return done


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_a_run_with_a_login(home, secure_broker, endpoint, mechanism):
    properties = login(secure_broker, mechanism, endpoint)
    done = run(home, secure_broker.url_of("SASL"), properties, "--duration", "1")
    assert done.returncode == 0, done.stderr


def test_a_run_with_a_certificate(home, secure_broker):
    properties = secure_broker.settings("MTLS")
    key = shutil.copy(properties["ssl.key.location"], secure_broker.certificates / "nobody.pem")
    os.chown(key, NOBODY, NOBODY)
    properties["ssl.key.location"] = str(key)
    done = run(home, secure_broker.url_of("MTLS"), properties, "--duration", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("listener", "mechanism", "wrong", "says"),
    [
        ("SASL", "SCRAM-SHA-256", {"sasl.password": "wrong"}, "refuses the user agent or the"),
        ("SASL", "PLAIN", {"sasl.password": "wrong"}, "refuses the user agent or the password"),
        ("SASL", "OAUTHBEARER", {"sasl.oauthbearer.client.secret": "wrong"}, "HTTP 401"),
        ("SASL", "SCRAM-SHA-256", {"ssl.ca.location": "OTHER"}, "not trusted here"),
        ("EXPIRED", "", {}, "has a certificate that has expired"),
        ("FOREIGN", "", {}, "has a certificate for broker.example, not for 127.0.0.1"),
        ("TLS", "", {"security.protocol": "PLAINTEXT"}, "requires TLS"),
    ],
)
def test_a_refusal_is_explained(home, secure_broker, endpoint, listener, mechanism, wrong, says):
    if mechanism:
        properties = login(secure_broker, mechanism, endpoint)
    else:
        properties = secure_broker.settings(listener)
    properties |= wrong
    if "ssl.ca.location" in wrong:
        properties["ssl.ca.location"] = str(secure_broker.other_authority.certificate)
    if properties["security.protocol"] == "PLAINTEXT":
        del properties["ssl.ca.location"]
    done = run(home, secure_broker.url_of(listener), properties)
    assert done.returncode == 1
    assert says in done.stderr


def test_a_refusal_is_explained_while_records_are_spooled(home, secure_broker):
    properties = secure_broker.settings("SASL") | {"sasl.password": "wrong"}
    url, spool = secure_broker.url_of("SASL"), str(home.path / "spool")
    done = run(home, url, properties, "--spool", spool, "--duration", "2")
    assert done.returncode == 0, done.stderr
    assert "refuses the user agent or the password" in done.stderr
    assert "spool_left" in done.stderr
