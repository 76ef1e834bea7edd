"""Settings of clients and topics; imports no Kafka library.

``flowstream.kafka.properties`` makes them from the names that users know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flowstream.kafka.secrets import Secret

KEEP_FOREVER: Final = {"retention.ms": "-1"}
"""Topic settings for messages from the past: a broker deletes messages by their own times."""

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


@dataclass(frozen=True, slots=True, eq=False)
class Tls:
    """TLS to the brokers. Without ``ca``, a file or directory, the host's authorities count.

    ``certificate`` and ``key`` are the client's, for brokers that ask for one; without
    ``key`` the certificate's file has the key too. ``check_host``: the broker's
    certificate must be for the host that was connected to.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_password: Secret | None = None
    check_host: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class OAuth:
    """A token endpoint (RFC 6749, 4.4: client credentials) and the client's account there.

    ``ca`` verifies the endpoint; ``extensions`` go to the broker with the token.
    """

    token_url: str
    client_id: str
    client_secret: Secret
    scope: str = ""
    extensions: Mapping[str, str] | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sasl:
    """The client's account at the brokers: with ``password``, or by tokens of ``oauth``."""

    mechanism: Mechanism
    username: str = ""
    password: Secret | None = None
    oauth: OAuth | None = None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Settings that all producers, consumers and admin clients of a cluster share.

    ``addresses`` are HOST:PORT of the brokers to connect to first. Times are in seconds,
    sizes in octets; None leaves the choice to each kind of client.
    """

    addresses: tuple[str, ...] = ()
    client_id: str = "flowstream"
    request_timeout: float = 10.0
    tls: Tls | None = None
    sasl: Sasl | None = None
    metadata_max_age: float | None = None
    # Of producers: the largest batch, and from a record's acceptance until it is given up.
    compression: Compression = "zstd"
    batch_size: int | None = None
    delivery_timeout: float | None = None
    # Of consumers: they may read from a replica of this rack.
    rack: str = ""

    @property
    def url(self) -> str:
        """The cluster's URL, for messages."""
        return f"kafka://{','.join(self.addresses)}"

    @property
    def security_protocol(self) -> SecurityProtocol:
        """The name that Kafka has for the use of TLS and SASL."""
        if self.sasl:
            return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"
        return "SSL" if self.tls else "PLAINTEXT"

    def at(self, addresses: tuple[str, ...]) -> ClientSettings:
        """Return the same settings for the brokers at these addresses."""
        return replace(self, addresses=addresses)


DEFAULT_CLIENT: Final = ClientSettings()
"""Clients without properties; ``at`` gives them a cluster."""
