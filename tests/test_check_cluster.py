"""The check of a cluster: every step of a client, then what this client may do there."""

from __future__ import annotations

import re

import pytest
from broker.secure import AGENT, PASSWORDS, READER, STRANGER, SecureBroker
from broker.topics import create
from confluent_kafka.admin import NewTopic
from support.outcomes import new_topic

from flowstream.check.cluster import check_cluster
from flowstream.check.finding import Finding, Status
from flowstream.kafka import cluster_clock
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import ClientSettings, Sasl, Tls

pytestmark = pytest.mark.anyio

OK, WARN, FAIL = Status
NO_COMPACTION = "set cleanup.policy=delete"


def settings_of(broker: SecureBroker, user: str) -> ClientSettings:
    sasl = Sasl("SCRAM-SHA-256", user, Secret(PASSWORDS[user]))
    address = f"127.0.0.1:{broker.ports['SASL']}"
    return ClientSettings((address,), tls=Tls(broker.authority.certificate), sasl=sasl)


async def found(settings: ClientSettings, *topics: str) -> list[Finding]:
    return [each async for each in check_cluster(settings, topics)]


@pytest.fixture
def topics(secure_broker: SecureBroker) -> tuple[str, str, str]:
    """A topic of flows with settings that lose records, one of counters, and one missing."""
    prefix = new_topic()
    flows, counters, missing = f"{prefix}.flows", f"{prefix}.counters", f"{prefix}.new_flows"
    losing = {
        "cleanup.policy": "compact,delete",
        "retention.ms": "60000",
        "max.message.bytes": "100000",
        "message.timestamp.before.max.ms": "3600000",
        "message.timestamp.after.max.ms": "1000",
    }
    create(secure_broker, NewTopic(flows, 7, config=losing), NewTopic(counters, 1))
    return flows, counters, missing


async def test_the_steps_and_the_topics(secure_broker: SecureBroker, topics) -> None:
    flows, counters, missing = topics
    settings = settings_of(secure_broker, AGENT)
    (address,) = settings.addresses
    findings = await found(settings, flows, missing, counters)
    clock = findings.pop(6)
    assert (clock.status, clock.subject) == (OK, "clock")
    assert re.fullmatch(r"20\S+Z here; the cluster does not tell its own", clock.text)
    assert clock.remedy == "allow Describe on the cluster to compare them"
    assert findings == [
        Finding(OK, f"resolve {address}", "127.0.0.1"),
        Finding(OK, f"connect {address}", "accepts connections"),
        Finding(
            *(OK, f"TLS {address}"),
            "TLSv1.3, a certificate of flowstream test authority, valid for 29 more days",
        ),
        Finding(OK, f"SASL {address}", "authenticated as agent by SCRAM-SHA-256"),
        Finding(OK, f"metadata {address}", "1 broker"),
        Finding(OK, "idempotent writing", "allowed"),
        Finding(OK, f"topic {flows}", "7 partitions, may be written"),
        Finding(
            *(OK, f"topic {flows}"),
            "cleanup.policy=compact,delete, retention.ms=60000, "
            "message.timestamp.type=CreateTime, message.timestamp.before.max.ms=3600000, "
            "message.timestamp.after.max.ms=1000, max.message.bytes=100000",
        ),
        Finding(
            *(WARN, f"topic {flows}"),
            "cleanup.policy=compact,delete deletes records of all flows but the latest",
            NO_COMPACTION,
        ),
        Finding(
            *(WARN, f"topic {flows}"),
            "retention.ms=60000 deletes records after 60 s",
            "set retention.ms to how long they are needed",
        ),
        Finding(
            *(WARN, f"topic {flows}"),
            "message.timestamp.before.max.ms=3600000 refuses records that waited through an "
            "outage of more than 3600 s",
            "set it to 86400000 or more",
        ),
        Finding(
            *(WARN, f"topic {flows}"),
            "message.timestamp.after.max.ms=1000 refuses records of a host whose clock is ahead "
            "by more than 1 s",
            "set it to 60000 or more",
        ),
        Finding(
            *(WARN, f"topic {flows}"),
            "max.message.bytes=100000 refuses batches of 524288 octets, which are then divided",
            "set it to 524288 or more, or batch.size to less",
        ),
        Finding(OK, f"topic {missing}", "does not exist yet; run creates it"),
        Finding(OK, f"topic {counters}", "1 partition, may be written"),
        Finding(
            *(OK, f"topic {counters}"),
            "cleanup.policy=delete, retention.ms=-1, message.timestamp.type=CreateTime, "
            "message.timestamp.after.max.ms=3600000, max.message.bytes=1048588",
        ),
    ]


async def failures(settings: ClientSettings, *topics: str) -> list[tuple[str, str, str]]:
    return [
        (each.subject, each.text, each.remedy)
        for each in await found(settings, *topics)
        if each.status is FAIL
    ]


NOT_IDEMPOTENT = (
    "idempotent writing",
    "not allowed",
    "allow Write on the topics, or IdempotentWrite on the cluster",
)


async def test_a_client_that_may_only_read(secure_broker: SecureBroker, topics) -> None:
    flows, _, missing = topics
    assert await failures(settings_of(secure_broker, READER), flows, missing) == [
        NOT_IDEMPOTENT,
        (f"topic {flows}", "7 partitions, may not be written", "allow Write on it"),
        (
            f"topic {missing}",
            "does not exist and cannot be created: Authorization failed",
            "create it, or allow Create on it",
        ),
    ]


async def test_a_client_that_may_do_nothing(secure_broker: SecureBroker, topics) -> None:
    """It cannot tell a topic that it may not see from one that does not exist."""
    flows, _, missing = topics
    remedy = "allow Describe and Write on it"
    assert await failures(settings_of(secure_broker, STRANGER), flows, missing) == [
        NOT_IDEMPOTENT,
        (f"topic {flows}", "not visible", remedy),
        (f"topic {missing}", "not visible", remedy),
    ]


async def test_a_certificate_that_ends_soon(secure_broker: SecureBroker, monkeypatch) -> None:
    monkeypatch.setattr("flowstream.check.cluster._LAST_DAYS", 30)
    settings = settings_of(secure_broker, AGENT)
    (finding,) = [each for each in await found(settings) if each.status is WARN]
    assert finding.subject == f"TLS {settings.addresses[0]}"
    assert finding.remedy == "renew the broker's certificate"


@pytest.mark.parametrize(("mechanism", "warned"), [("PLAIN", True), ("SCRAM-SHA-512", False)])
async def test_credentials_in_clear(secure_broker, mechanism: str, *, warned: bool) -> None:
    sasl = Sasl(mechanism, AGENT, Secret(PASSWORDS[AGENT]))
    address = f"127.0.0.1:{secure_broker.ports['BARE']}"
    findings = await found(ClientSettings((address,), sasl=sasl))
    (finding,) = [each for each in findings if each.subject == f"SASL {address}"]
    text = f"authenticated as agent by {mechanism}"
    if warned:
        text += ", which sends the credentials in clear"
        assert finding == Finding(WARN, finding.subject, text, "set security.protocol=SASL_SSL")
    else:
        assert finding == Finding(OK, finding.subject, text)


async def test_one_address_of_two(secure_broker: SecureBroker) -> None:
    """What another address has to say is still told."""
    settings = settings_of(secure_broker, AGENT)
    both = settings.at(("127.0.0.1:1", *settings.addresses))
    findings = await found(both)
    assert [each.subject for each in findings if each.status is FAIL] == ["connect 127.0.0.1:1"]
    assert Finding(OK, "idempotent writing", "allowed") in findings


@pytest.mark.parametrize(
    ("hours", "status", "clock", "refusal"),
    [
        (0, OK, r"\d\.\d s (ahead of|behind) the cluster's", ""),
        (
            2,
            WARN,
            r"7[12]\d\d\.\d s ahead of the cluster's",
            (
                r"message\.timestamp\.after\.max\.ms=1000 refuses the records of this host: "
                r"its clock is 7[12]\d\d s ahead"
            ),
        ),
        (
            -2,
            WARN,
            r"7[12]\d\d\.\d s behind the cluster's",
            (
                r"message\.timestamp\.before\.max\.ms=3600000 refuses the records of this host: "
                r"its clock is 7[12]\d\d s behind"
            ),
        ),
    ],
)
async def test_the_clock_against_the_limits_of_topics(
    secure_broker: SecureBroker, topics, monkeypatch, hours: int, status, clock, refusal
) -> None:
    """Clients without a name may do everything here, also ask for the cluster's clock."""
    now_ms = cluster_clock._now_ms
    monkeypatch.setattr(cluster_clock, "_now_ms", lambda: now_ms() + hours * 3_600_000)
    findings = await found(secure_broker.cluster, topics[0])
    (finding,) = [each for each in findings if each.subject == "clock"]
    assert finding.status is status
    assert re.fullmatch(clock, finding.text)
    refused = [each.text for each in findings if each.status is FAIL]
    assert len(refused) == bool(refusal)
    assert re.fullmatch(refusal, "".join(refused))
