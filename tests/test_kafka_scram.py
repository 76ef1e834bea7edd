"""The work that a SCRAM server may ask for is bounded."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

from flowstream.kafka.client import authenticator
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import Sasl

SALT = "c2FsdA=="


async def answered(iterations: str) -> bytes:
    """The client's proof for a server that asks for so many iterations."""
    steps = authenticator(Sasl("SCRAM-SHA-256", "u", Secret("a password")))
    first, _ = await steps.step(None)
    nonce = first.decode().rpartition("r=")[2]
    proof, _ = await steps.step(f"r={nonce}x,s={SALT},i={iterations}".encode())
    return proof


@pytest.mark.parametrize("iterations", ["4096", "16384", "1000000"])
def test_as_many_iterations_as_brokers_have(iterations):
    assert b",p=" in asyncio.run(answered(iterations))


@pytest.mark.parametrize(
    "iterations",
    [
        "0",
        "1",
        "4095",
        "1000001",
        "2147483647",
        "9" * 5000,
        "-1",
        "4096x",
        "",
        "4096,i=1",
        "4096,x=,i=2147483647",
        "1,i=4096",
    ],
)
def test_more_or_less_is_refused_at_once(iterations):
    with pytest.raises(KafkaConnectionError, match="iterations of SCRAM"):
        asyncio.run(answered(iterations))


def test_other_users_of_aiokafka_are_not_affected():
    async def steps() -> str:
        connection = AIOKafkaConnection(
            *("127.0.0.1", 1),
            sasl_mechanism="SCRAM-SHA-256",
            sasl_plain_username="u",
            sasl_plain_password="p",
        )
        return type(connection.authenticator_scram()).__name__

    assert asyncio.run(steps()) == "ScramAuthenticator"
