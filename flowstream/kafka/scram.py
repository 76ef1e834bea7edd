"""Bounds the work that a SCRAM server may ask of clients of aiokafka.

aiokafka takes any number of iterations. Billions of them occupy a thread for an hour at each
attempt to connect; a few let whoever plays the broker find the password from the proof.
"""

from __future__ import annotations

import re
from typing import Final

from aiokafka.conn import AIOKafkaConnection, ScramAuthenticator
from aiokafka.errors import KafkaConnectionError

from flowstream.kafka.frames import BoundedId

LEAST_ITERATIONS: Final = 4_096
"""RFC 7677, 4; Java's clients refuse fewer, and brokers store no fewer."""
MOST_ITERATIONS: Final = 1_000_000
"""Kafka's own limit is 16384."""


class _BoundedScram(ScramAuthenticator):  # type: ignore[misc]
    def process_server_first_message(self, server_first: str) -> None:
        # All of them: aiokafka takes the last one.
        found = re.findall(r"(?:^|,)i=([^,]*)", server_first)
        if not found or not all(map(_is_bounded, found)):
            raise KafkaConnectionError(
                f"the broker asks for less than {LEAST_ITERATIONS} or more than "
                f"{MOST_ITERATIONS} iterations of SCRAM"
            )
        super().process_server_first_message(server_first)


def _is_bounded(iterations: str) -> bool:
    is_number = bool(re.fullmatch(r"[0-9]{1,9}", iterations))
    return is_number and LEAST_ITERATIONS <= int(iterations) <= MOST_ITERATIONS


_authenticator_scram = AIOKafkaConnection.authenticator_scram


def _bounded_authenticator_scram(connection: AIOKafkaConnection) -> ScramAuthenticator:
    # As with frames: other users of aiokafka in this process are not affected.
    if not isinstance(connection._client_id, BoundedId):  # noqa: SLF001
        return _authenticator_scram(connection)
    return _BoundedScram(
        loop=connection._loop,  # noqa: SLF001
        sasl_plain_username=connection._sasl_plain_username,  # noqa: SLF001
        sasl_plain_password=connection._sasl_plain_password,  # noqa: SLF001
        sasl_mechanism=connection._sasl_mechanism,  # noqa: SLF001
    )


AIOKafkaConnection.authenticator_scram = _bounded_authenticator_scram
