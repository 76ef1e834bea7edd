"""A broker with TLS, SASL and access control, each kind of listener on a port of its own."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Final

from broker import Broker
from broker.acls import allow
from broker.certificates import Authority

LISTENERS: Final = {
    "TLS": "SSL",
    "MTLS": "SSL",
    "EXPIRED": "SSL",
    "FOREIGN": "SSL",
    "SASL": "SASL_SSL",
    "BARE": "SASL_PLAINTEXT",
}
"""Listener: its protocol. MTLS requires a client's certificate; the certificate of EXPIRED
has expired, that of FOREIGN is for another host; BARE has SASL without TLS. The plaintext
listener of every test broker is there, too."""

MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")

AGENT, READER, STRANGER = "agent", "reader", "stranger"
PASSWORDS: Final = {
    AGENT: "password-of-the-agent",
    READER: "password-of-the-reader",
    STRANGER: "password-of-the-stranger",
}
"""Users: one that may write and create, one that may read, one that may do nothing."""

# Those of docs/security.md; Write and Read imply Describe.
_TOPIC_RIGHTS: Final = {
    AGENT: ("WRITE", "CREATE", "READ", "DESCRIBE_CONFIGS"),
    READER: ("READ", "DESCRIBE_CONFIGS"),
}

_MODULES: Final = {
    "PLAIN": "plain.PlainLoginModule required "
    + " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items()),
    "SCRAM-SHA-256": "scram.ScramLoginModule required",
    "SCRAM-SHA-512": "scram.ScramLoginModule required",
    # Takes tokens without a signature; a server needs a claim of its own to log in.
    "OAUTHBEARER": "oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker"',
}


class SecureBroker(Broker):
    """A broker of all ``LISTENERS``.

    Clients of plaintext and of TLS without a certificate may do everything. A
    client's certificate is the user of its common name, ``client`` that of the agent.
    """

    def __init__(self) -> None:
        self.certificates = Path(tempfile.mkdtemp(prefix="flowstream-certificates-"))
        # Agents read the authority's certificate as a user of their own.
        self.certificates.chmod(0o711)
        self.authority = Authority(self.certificates, "flowstream test authority")
        self.other_authority = Authority(self.certificates, "another authority")
        self.client = self.authority.issue(AGENT)
        self.expired_client = self.authority.issue("expired", valid=timedelta(days=-2))
        self.untrusted_client = self.other_authority.issue("untrusted")
        super().__init__(
            self._secured(),
            listeners=LISTENERS,
            scram=[(m, *pair) for m in MECHANISMS[1:3] for pair in PASSWORDS.items()],
        )
        try:
            self._allow()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it and remove its directory and the certificates."""
        super().close()
        shutil.rmtree(self.certificates, ignore_errors=True)

    def url_of(self, listener: str, host: str = "127.0.0.1") -> str:
        """Return the URL of a listener; its certificate is also for the host localhost."""
        return f"kafka://{host}:{self.ports[listener]}"

    def settings(self, listener: str, user: str = "", mechanism: str = "") -> dict[str, str]:
        """Return the client properties, by librdkafka's names, that fit a listener.

        OAUTHBEARER needs ``TokenEndpoint.settings`` too.
        """
        if listener not in LISTENERS:
            return {}
        found = {"security.protocol": LISTENERS[listener]}
        if "SSL" in LISTENERS[listener]:
            found["ssl.ca.location"] = str(self.authority.certificate)
        if listener == "MTLS":
            found["ssl.certificate.location"] = str(self.client.certificate)
            found["ssl.key.location"] = str(self.client.key)
        if "SASL" in LISTENERS[listener]:
            found["sasl.mechanism"] = mechanism or "SCRAM-SHA-256"
        if "SASL" in LISTENERS[listener] and mechanism != "OAUTHBEARER":
            found["sasl.username"] = user or AGENT
            found["sasl.password"] = PASSWORDS[user or AGENT]
        return found

    def _secured(self) -> dict[str, str]:
        server = self.authority.issue("server")
        bundles = {
            "EXPIRED": self.authority.issue("expired-server", valid=timedelta(days=-2)),
            "FOREIGN": self.authority.issue("foreign-server", ("broker.example",)),
        }
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            "listener.name.mtls.ssl.client.auth": "required",
        }
        for listener, protocol in LISTENERS.items():
            name = f"listener.name.{listener.lower()}"
            if "SSL" in protocol:
                bundle = bundles.get(listener, server).bundle
                properties[f"{name}.ssl.keystore.location"] = str(bundle)
            for mechanism in MECHANISMS if "SASL" in protocol else ():
                module = f"org.apache.kafka.common.security.{_MODULES[mechanism]};"
                properties[f"{name}.{mechanism.lower()}.sasl.jaas.config"] = module
        return properties

    def _allow(self) -> None:
        for user, rights in _TOPIC_RIGHTS.items():
            allow(self, user, "*", *rights)
