"""Registers schemas with a schema registry that speaks Confluent's API.

A client of its own, because the registry is not trusted: an answer is bounded in size,
is not decompressed, and no redirect is followed. Confluent's client reads whatever comes.
"""

from __future__ import annotations

import base64

# The codec of host names, which the first look-up would import: its files may be out of reach.
import encodings.idna  # noqa: F401
import http.client
import ssl
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote

import msgspec

from flowstream import schemas
from flowstream.errors import SinkError
from flowstream.schemas.topics import RECORD_TYPES
from flowstream.undecodable import UNDECODABLE
from flowstream.urls import without_secret

if TYPE_CHECKING:
    from flowstream.urls import RegistryUrl

TIMEOUT_S: Final = 10.0
"""Time limit for everything that is asked of a registry at a start."""
LARGEST_ANSWER: Final = 1 << 20
_LONGEST_TEXT: Final = 200
"""Characters of a registry's text that an error shows."""
_TYPES: Final = {"avro": "AVRO", "protobuf": "PROTOBUF"}
_OK, _MOVED, _NOT_FOUND, _CONFLICT, _DENIED = 200, range(300, 400), 404, 409, (401, 403)
_CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"


class _Registered(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Refusal(msgspec.Struct):
    message: str


class _WrongAnswerError(Exception):
    """An answer that the API does not have."""


class _RefusedError(Exception):
    """An answer other than 200: its status and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} (HTTP {status})" if text else f"HTTP {status}")
        self.status = status


class RegistryClient:
    """Asks one registry; every request has a connection of its own. Nothing is sent yet."""

    def __init__(self, url: RegistryUrl) -> None:
        self._url = url
        # Reads the certificates of the host now: later they may be out of reach.
        self._context = ssl.create_default_context() if url.secure else None

    def identifiers(self, record_format: str, topic_prefix: str) -> list[int]:
        """Look up or register the schemas of all topics; return their ids.

        The order is that of RECORD_TYPES.
        ``record_format`` is avro or protobuf; the subjects are ``TOPIC-value``. Blocks, at
        most ``TIMEOUT_S`` without any octet from the registry. Raises ``SinkError`` when the
        registry cannot be reached, refuses a schema, or answers anything else than the API says.
        """
        return [
            self._identifier(
                f"{topic_prefix}.{stream}-value",
                {
                    "schema": schemas.text(record_format, stream),
                    "schemaType": _TYPES[record_format],
                },
            )
            for stream in RECORD_TYPES
        ]

    def _identifier(self, subject: str, schema: dict[str, str]) -> int:
        try:
            return self._found_or_registered(f"/subjects/{quote(subject, safe='')}", schema)
        except _RefusedError as err:
            raise SinkError(f"{self}: subject {subject}: {_explained(err)}") from err
        except _WrongAnswerError as err:
            raise SinkError(f"{self}: subject {subject}: {err}") from err
        # ValueError: for example a host name that cannot be encoded.
        except (OSError, http.client.HTTPException, ValueError) as err:
            cause = _printable(str(err)) or type(err).__name__
            raise SinkError(f"{self}: cannot be used: {cause}") from err

    def _found_or_registered(self, path: str, schema: dict[str, str]) -> int:
        # An agent may lack the right to register.
        try:
            return self._post(path, schema)
        except _RefusedError as err:
            if err.status != _NOT_FOUND:
                raise
        return self._post(f"{path}/versions", schema)

    def _post(self, path: str, schema: dict[str, str]) -> int:
        """Return the schema's id in the answer to a request."""
        connection = self._connection()
        try:
            connection.request(
                "POST", self._url.path + path, msgspec.json.encode(schema), self._headers()
            )
            with connection.getresponse() as answer:
                body = answer.read(LARGEST_ANSWER + 1)
        finally:
            connection.close()
        if len(body) > LARGEST_ANSWER:
            raise _WrongAnswerError(f"its answer is larger than {LARGEST_ANSWER >> 20} MiB")
        if answer.status != _OK:
            raise _RefusedError(answer.status, _said(answer, body))
        kind = answer.headers.get_content_type()
        if not kind.endswith("json"):
            raise _WrongAnswerError(
                f"its answer is not JSON but {_printable(kind)}: is it a schema registry?"
            )
        try:
            return msgspec.json.decode(body, type=_Registered).id
        except UNDECODABLE as err:
            raise _WrongAnswerError(f"its answer names no schema id: {err}") from err

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.host, self._url.port
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._context)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": _CONTENT_TYPE, "Accept": _CONTENT_TYPE}
        if self._url.login:
            headers["Authorization"] = f"Basic {base64.b64encode(self._url.login).decode()}"
        return headers

    def __str__(self) -> str:
        return f"registry {self._url}"


def _said(answer: http.client.HTTPResponse, body: bytes) -> str:
    """Return the text of a refusal, or where a redirect points to."""
    if answer.status in _MOVED:
        return _printable(without_secret(answer.headers.get("Location", "")))
    try:
        return _printable(msgspec.json.decode(body, type=_Refusal).message)
    except UNDECODABLE:
        return ""


def _printable(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}..."


def _explained(err: _RefusedError) -> str:
    if err.status == _CONFLICT:
        return (
            f"its schema is not compatible with this version's: {err}; "
            "use another topic prefix or change the subject's compatibility"
        )
    if err.status == _NOT_FOUND:
        return "no registry API at this path (HTTP 404); Apicurio's path is /apis/ccompat/v7"
    if err.status in _DENIED:
        return f"access denied: {err}; put USER:PASSWORD@ before the registry's host"
    if err.status in _MOVED:
        return f"the registry is elsewhere, and no redirect is followed: {err}"
    return f"the schema was refused: {err}"
