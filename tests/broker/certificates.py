"""Certificates for tests: an authority that issues them with any name and validity.

Keys are PKCS #8 in PEM, the only form that Kafka reads.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK: Final = ("localhost", "127.0.0.1")
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of a certificate and its key; ``bundle`` is both, as Kafka reads them."""

    certificate: Path
    key: Path
    bundle: Path


class Authority:
    """A certificate authority whose files are in ``directory``."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._key = directory, ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        builder = _builder(self._name, self._key, timedelta(days=365)).issuer_name(self._name)
        certificate = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        ).sign(self._key, hashes.SHA256())
        self.certificate = directory / f"{name.replace(' ', '-')}.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = LOOPBACK,
        *,
        begins: timedelta = timedelta(0),
        valid: timedelta = timedelta(days=30),
        password: str = "",
    ) -> Identity:
        """Issue a certificate for the common name ``name``.

        It begins and ends so long from now; negative ``valid``: it has expired. A
        ``password`` encrypts the key file.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_named(name), key, valid, begins)
            .issuer_name(self._name)
            .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )
        encryption = (
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption()
        )
        key_text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        paths = (self._directory / f"{name}.{part}.pem" for part in ("certificate", "key", "both"))
        identity = Identity(*paths)
        identity.certificate.write_bytes(certificate)
        _write_private(identity.key, key_text)
        _write_private(identity.bundle, key_text + certificate)
        return identity


def _builder(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    valid: timedelta,
    begins: timedelta = timedelta(0),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now + begins, now + valid - DAY))
        .not_valid_after(now + valid)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_private(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
