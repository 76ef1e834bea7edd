"""The secure test broker, seen by librdkafka: each listener takes what fits it, and no more."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request

import pytest
from broker.secure import AGENT, LISTENERS, MECHANISMS, READER, STRANGER, SecureBroker
from broker.tokens import CLIENT_ID, CLIENT_SECRET, TokenEndpoint
from broker.topics import create
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import NewTopic
from support.outcomes import new_topic

CASES = [
    (listener, mechanism)
    for listener, protocol in LISTENERS.items()
    for mechanism in (MECHANISMS if "SASL" in protocol else ("",))
]


def token(endpoint: TokenEndpoint, secret: str = CLIENT_SECRET) -> dict:
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": secret,
    }
    data = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(endpoint.url, data, timeout=60) as answer:
        return json.load(answer)


def client(broker: SecureBroker, listener: str, **settings) -> tuple[Producer, list[str]]:
    errors: list[str] = []
    properties = broker.settings(listener) | {
        "bootstrap.servers": broker.url_of(listener).removeprefix("kafka://"),
        "error_cb": lambda error: errors.append(error.str()),
        "log_level": 0,
    }
    return Producer(properties | settings), errors


def errors_of(broker: SecureBroker, listener: str, **settings) -> str:
    """Ask for metadata until the first error, or its answer, which gives none."""
    producer, errors = client(broker, listener, **settings)
    deadline = time.monotonic() + 60
    while not errors:
        try:
            producer.list_topics(timeout=0.5)
        except KafkaException:
            assert time.monotonic() < deadline
            producer.poll(0)
        else:
            return ""
    return errors[0]


@pytest.mark.parametrize(("listener", "mechanism"), CASES)
def test_the_right_settings(secure_broker: SecureBroker, listener: str, mechanism: str) -> None:
    settings = secure_broker.settings(listener, mechanism=mechanism)
    if mechanism != "OAUTHBEARER":
        found = errors_of(secure_broker, listener, **settings)
    else:
        with TokenEndpoint() as endpoint:

            def fetch(_: str) -> tuple[str, float]:
                found = token(endpoint)
                return found["access_token"], time.time() + found["expires_in"]

            found = errors_of(secure_broker, listener, oauth_cb=fetch, **settings)
    if listener in ("EXPIRED", "FOREIGN"):
        assert "certificate verify failed" in found
    else:
        assert found == ""


def test_wrong_ones(secure_broker: SecureBroker) -> None:
    broker = secure_broker
    wrong = {"sasl.password": "wrong"}
    assert "Authentication failed" in errors_of(broker, "SASL", **wrong)
    other = {"ssl.ca.location": str(broker.other_authority.certificate)}
    assert "certificate verify failed" in errors_of(broker, "TLS", **other)
    identity = broker.untrusted_client
    files = {
        "ssl.certificate.location": str(identity.certificate),
        "ssl.key.location": str(identity.key),
    }
    assert "alert" in errors_of(broker, "MTLS", **files)


@pytest.mark.parametrize(
    ("user", "error"),
    [
        (AGENT, None),
        (READER, "TOPIC_AUTHORIZATION_FAILED"),
        (STRANGER, "TOPIC_AUTHORIZATION_FAILED"),
    ],
)
def test_rights_of_the_users(secure_broker: SecureBroker, user: str, error: str | None) -> None:
    topic, outcomes = new_topic(), []
    create(secure_broker, NewTopic(topic, 1))
    producer, _ = client(secure_broker, "SASL", **secure_broker.settings("SASL", user))
    producer.produce(topic, b"", on_delivery=lambda found, _: outcomes.append(found))
    assert producer.flush(60) == 0
    assert [found and found.name() for found in outcomes] == [error]
