"""TLS contexts from the files that the settings name, read again when those change."""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from flowstream.errors import UsageError
from flowstream.files import open_regular, shown
from flowstream.kafka.reloading import revealed
from flowstream.kafka.secrets import signature_of

if TYPE_CHECKING:
    from pathlib import Path

    from flowstream.kafka.secrets import Secret, Signature
    from flowstream.kafka.settings import Tls

log = structlog.get_logger(__name__)

_LARGEST_FILE: Final = 1 << 20
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


@functools.lru_cache(maxsize=8)
def context(tls: Tls) -> ssl.SSLContext:
    """Return the context of these settings, always the same one.

    Each connection begun with it uses the files as they are by then or, if they cannot be
    read, as they were. Raises ``UsageError`` when they cannot be used at first.
    """
    return _ReloadingContext(tls)


def context_of_authorities(ca: Path | None, name: str) -> ssl.SSLContext:
    """Return a context that verifies peers by ``ca``, a file or directory, or the host's.

    Raises ``UsageError`` that names the property ``name``.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        made.load_default_certs()
    elif ca.is_dir():
        made.load_verify_locations(capath=ca)
    else:
        _require(ca, name, _CERTIFICATE, "certificate")
        try:
            made.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as err:
            raise UsageError(f"{name}: {shown(ca)}: {_reason(err)}") from err
    return made


class _ReloadingContext(ssl.SSLContext):
    """A context whose connections use the present files."""

    def __new__(cls, _: Tls) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._signatures = _signatures(tls)
        self._inner = _loaded(tls)
        self._fault = ""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection, as the base class does; asyncio and uvloop call this."""
        self._refresh()
        return self._inner.wrap_bio(*args, **kwargs)

    def _refresh(self) -> None:
        present = self._signatures | _signatures(self._tls)
        if present == self._signatures:
            return
        try:
            self._inner = _loaded(self._tls)
        # Perhaps only some of the files are written so far.
        except (UsageError, OSError) as err:
            if str(err) != self._fault:
                log.warning("kafka_credentials_not_reloaded", error=str(err))
            self._fault = str(err)
            return
        self._signatures, self._fault = present, ""
        log.info("kafka_credentials_reloaded", files=[shown(path) for path in present])


def _signatures(tls: Tls) -> dict[Path, Signature]:
    """Return the signatures of the files, without those that are out of reach by now."""
    secret = tls.key_password.file if tls.key_password else None
    found = {}
    for path in (tls.ca, tls.certificate, tls.key, secret):
        if path is not None:
            try:
                found[path] = signature_of(path)
            except OSError:
                continue
    return found


def _loaded(tls: Tls) -> ssl.SSLContext:
    made = context_of_authorities(tls.ca, "ssl.ca.location")
    made.check_hostname = tls.check_host
    if tls.certificate is not None:
        _load_identity(made, tls.certificate, tls.key, tls.key_password)
    return made


def _load_identity(
    made: ssl.SSLContext, certificate: Path, key: Path | None, password: Secret | None
) -> None:
    _require(certificate, "ssl.certificate.location", _CERTIFICATE, "certificate")
    place = "ssl.certificate.location" if key is None else "ssl.key.location"
    key = key or certificate
    _require(key, place, _KEY, "private key")
    asked = False

    def reveal() -> str:
        # Without a function OpenSSL would ask the terminal.
        nonlocal asked
        asked = True
        return revealed(password) if password else ""

    try:
        made.load_cert_chain(certificate, key, reveal)
    except (OSError, ValueError) as err:
        if asked:
            # ValueError: a password that is too long.
            said = f"does not decrypt {shown(key)}"
            if password is None:
                said = f"is missing, and {shown(key)} is encrypted"
            raise UsageError(f"ssl.key.password: {said}") from None
        reason = _reason(err)
        if getattr(err, "reason", "") == "KEY_VALUES_MISMATCH":
            reason = f"is not the key of {shown(certificate)}"
        raise UsageError(f"{place}: {shown(key)}: {reason}") from err


def _require(path: Path, name: str, mark: bytes, what: str) -> None:
    """Read a file; ``UsageError`` unless it holds such a part in PEM."""
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST_FILE)
    except OSError as err:
        raise UsageError(f"{name}: {shown(path)}: cannot be read: {err.strerror}") from err
    if mark not in content:
        raise UsageError(f"{name}: {shown(path)}: holds no {what} in PEM")


def _reason(err: Exception) -> str:
    """Return OpenSSL's words for an error, or the system's."""
    reason = getattr(err, "reason", None)
    if reason:
        return str(reason).lower().replace("_", " ")
    return getattr(err, "strerror", None) or "cannot be used"
