"""The agent publishes over TLS and SASL: every packet is accounted for, as in plaintext."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from support import kafka_config
from support.agent import Agent, audited, delivered, on
from support.outcomes import new_topic

if TYPE_CHECKING:
    from pathlib import Path

PACKETS, FLOWS = 20_011, 1_009
NOBODY = 65_534


@pytest.mark.parametrize("listener", ["TLS", "MTLS", "SASL", "tokens"])
def test_every_packet(wire, secure_broker, endpoint, tmp_path: Path, listener: str) -> None:
    prefix = new_topic()
    if listener == "tokens":
        listener = "SASL"
        properties = secure_broker.settings(listener, mechanism="OAUTHBEARER") | endpoint.settings
    else:
        properties = secure_broker.settings(listener)
    if key := properties.get("ssl.key.location"):
        # The agent's own user reads it again when it changes, and nobody else.
        properties["ssl.key.location"] = str(shutil.copy(key, secure_broker.certificates / prefix))
        os.chown(properties["ssl.key.location"], NOBODY, NOBODY)
    config = kafka_config.write(tmp_path / "kafka.toml", properties)
    sender, receiver = wire
    options = ("--topic-prefix", prefix, "--config", config, "--interval", 1)
    with Agent(*on(receiver), "--sink", secure_broker.url_of(listener), *options) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(secure_broker.url, prefix)
    assert interface["flows"]["packets"] == arrived
