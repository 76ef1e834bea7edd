"""Faults of a TLS handshake in words, with their remedies, and the peer's certificate."""

from __future__ import annotations

# ssl.cert_time_to_seconds imports it at its first call, which may come after root was given up.
import _strptime  # type: ignore[import-not-found]  # noqa: F401
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from flowstream.kafka.looks import Fault, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

# X509_V_ERR_* (x509_vfy.h of OpenSSL).
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_HOST: Final = (62, 64)
_UNTRUSTED: Final = (2, 18, 19, 20, 21, 24, 27)
# Alerts about the client's certificate, by the end of OpenSSL's reason. Brokers in Java
# send BAD_CERTIFICATE for a missing one, CERTIFICATE_UNKNOWN for one that they do not trust.
_OF_CLIENT: Final = (
    *("BAD_CERTIFICATE", "CERTIFICATE_REQUIRED", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED"),
    *("CERTIFICATE_REVOKED", "UNSUPPORTED_CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"),
)
_NOTHING_COMMON: Final = ("PROTOCOL_VERSION", "HANDSHAKE_FAILURE", "INSUFFICIENT_SECURITY")


def explained(err: ssl.SSLError, *, has_certificate: bool) -> Fault:
    """Return the fault that an error of a handshake shows.

    ``has_certificate``: the client has a certificate of its own.
    """
    if isinstance(err, ssl.SSLCertVerificationError):
        return _of_broker(err.verify_code, err.verify_message)
    reason = (err.reason or type(err).__name__).upper()
    if reason.endswith(_OF_CLIENT) and not has_certificate:
        remedy = "set ssl.certificate.location and ssl.key.location"
        return Fault("requires a certificate of the client", remedy, lasting=True)
    alert = reason.partition("ALERT_")[2].lower().replace("_", " ")
    if reason.endswith(_OF_CLIENT):
        remedy = (
            "set ssl.certificate.location to one that is valid now, of an authority that "
            "the broker trusts"
        )
        return Fault(f"refuses this client's certificate ({alert})", remedy, lasting=True)
    if alert and reason.endswith(_NOTHING_COMMON):
        text = f"has no version or cipher of TLS in common with this host ({alert})"
        return Fault(text, "enable TLSv1.2 or TLSv1.3 on the broker", lasting=True)
    text = f"fails in TLS ({alert or reason.lower().replace('_', ' ')})"
    return Fault(text, "see the broker's log")


def _of_broker(code: int, reason: str) -> Fault:
    """Return why the broker's certificate is refused."""
    today = datetime.now(UTC).date()
    if code == _EXPIRED:
        text = "has a certificate that has expired"
        remedy = f"renew it, or correct this host's clock, where it is {today}"
    elif code == _NOT_YET_VALID:
        text = "has a certificate that is not valid yet"
        remedy = f"correct this host's clock, where it is {today}, or the certificate"
    elif code in _UNTRUSTED:
        text = f"has a certificate of an authority that is not trusted here ({reason})"
        remedy = "set ssl.ca.location to the certificate of its authority"
    else:
        text, remedy = f"has a certificate that is refused here ({reason})", "replace it"
    return Fault(text, remedy, lasting=True)


def is_for_another_host(err: ssl.SSLError) -> bool:
    """Whether the broker's certificate is refused only for its names."""
    return isinstance(err, ssl.SSLCertVerificationError) and err.verify_code in _OTHER_HOST


def another_host(host: str, names: list[str]) -> Fault:
    """Return the fault of a certificate that is for ``names`` and not for ``host``."""
    text = f"has a certificate for {shown(', '.join(names)) or 'other names'}, not for {host}"
    remedy = (
        "use a name of the certificate in the address, or renew it, or set "
        "ssl.endpoint.identification.algorithm=none"
    )
    return Fault(text, remedy, lasting=True)


def issuer(certificate: Mapping[str, Any]) -> str:
    """Return the issuer's common name, else its organisation."""
    names = {name: value for part in certificate["issuer"] for name, value in part}
    return str(names.get("commonName") or names.get("organizationName") or "an unnamed authority")


def days_left(certificate: Mapping[str, Any]) -> int:
    """Return for how many whole days the certificate is valid."""
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return int((ends - time.time()) // 86_400)


def names(certificate: Mapping[str, Any]) -> list[str]:
    """Return the hosts that the certificate is for."""
    return [str(name) for _, name in certificate.get("subjectAltName", ())]
