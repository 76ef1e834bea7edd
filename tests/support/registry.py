"""A small schema registry that speaks Confluent's API over HTTP, in a thread of the tests."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from support.http_server import HttpServer, JsonHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# https://docs.confluent.io/platform/current/schema-registry/develop/api.html
SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND = 40401, 40402, 40403


class RefusalError(Exception):
    """An answer that is an error: HTTP status, the API's code and its text."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code


class Definition(NamedTuple):
    """A schema as clients send it; Avro is the API's default type."""

    schema: str
    type: str


class Registry(HttpServer):
    """Schemas by subject; ids start at 1 and a schema has one id in all subjects.

    ``refusals`` maps "lookup" or "register" to the status and text that such requests
    get instead of an answer; with ``raw`` every request gets these octets, status line
    included, and the end of the connection. With ``login`` ("USER:PASSWORD") others get
    status 401. With ``certificate``, a PEM file that has the key too, it speaks TLS.
    ``users`` has the owner of each connection's other end.
    """

    def __init__(self, *, login: str | None = None, certificate: Path | None = None) -> None:
        self.refusals: dict[str, tuple[int, str]] = {}
        self.subjects: dict[str, list[int]] = {}
        self.raw: Callable[[], Iterable[bytes]] | None = None
        self.users: list[int] = []
        self._ids: dict[Definition, int] = {}
        self._login = login
        self._lock = threading.Lock()
        super().__init__(type("Handler", (_Handler,), {"registry": self}), certificate)

    @property
    def url(self) -> str:
        """Its URL, with user and password if it asks for them."""
        login = f"{self._login}@" if self._login else ""
        return f"{self.scheme}://{login}{self.address}"

    def answer(self, method: str, path: str, body: bytes, authorization: str | None) -> object:
        """Return the document that answers a request; raises ``RefusalError``."""
        if self._login:
            expected = f"Basic {base64.b64encode(self._login.encode()).decode()}"
            if authorization != expected:
                raise RefusalError(401, 401, "Unauthorized")
        for pattern, handle in self._requests.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                arguments = map(unquote, found.groups())
                with self._lock:
                    return handle(self, *arguments, *([json.loads(body)] if body else []))
        raise RefusalError(404, 404, "HTTP 404 Not Found")

    def _list(self) -> list[str]:
        return sorted(self.subjects)

    def _schema(self, number: str) -> dict[str, Any]:
        for definition, known in self._ids.items():
            if known == int(number):
                return self._document(definition)
        raise RefusalError(404, SCHEMA_NOT_FOUND, f"Schema {number} not found")

    def _versions(self, subject: str) -> list[int]:
        return list(range(1, 1 + len(self._of(subject))))

    def _version(self, subject: str, version: str) -> dict[str, Any]:
        numbers = self._of(subject)
        index = len(numbers) if version == "latest" else int(version)
        if not 0 < index <= len(numbers):
            raise RefusalError(404, VERSION_NOT_FOUND, f"Version {version} not found.")
        return self._entry(subject, index)

    def _look_up(self, subject: str, body: dict[str, str]) -> dict[str, Any]:
        self._maybe_refuse("lookup")
        numbers = self._of(subject)
        number = self._ids.get(self._definition(body))
        if number not in numbers:
            raise RefusalError(404, SCHEMA_NOT_FOUND, "Schema not found")
        return self._entry(subject, numbers.index(number) + 1)

    def _register(self, subject: str, body: dict[str, str]) -> dict[str, Any]:
        self._maybe_refuse("register")
        number = self._ids.setdefault(self._definition(body), len(self._ids) + 1)
        numbers = self.subjects.setdefault(subject, [])
        if number not in numbers:
            numbers.append(number)
        return self._entry(subject, numbers.index(number) + 1)

    _requests: dict[str, Callable[..., object]] = {  # noqa: RUF012 - a constant table
        r"GET /subjects": _list,
        r"GET /schemas/ids/(\d+)": _schema,
        r"GET /subjects/([^/]+)/versions": _versions,
        r"GET /subjects/([^/]+)/versions/(latest|\d+)": _version,
        r"POST /subjects/([^/]+)": _look_up,
        r"POST /subjects/([^/]+)/versions": _register,
    }

    def _of(self, subject: str) -> list[int]:
        if subject not in self.subjects:
            raise RefusalError(404, SUBJECT_NOT_FOUND, f"Subject '{subject}' not found.")
        return self.subjects[subject]

    def _entry(self, subject: str, version: int) -> dict[str, Any]:
        number = self.subjects[subject][version - 1]
        return {"subject": subject, "version": version, "id": number, **self._schema(str(number))}

    def _maybe_refuse(self, request: str) -> None:
        if request in self.refusals:
            status, text = self.refusals[request]
            raise RefusalError(status, status * 100 + 1, text)

    @staticmethod
    def _definition(body: dict[str, str]) -> Definition:
        return Definition(body["schema"], body.get("schemaType", "AVRO"))

    @staticmethod
    def _document(definition: Definition) -> dict[str, str]:
        kind = {} if definition.type == "AVRO" else {"schemaType": definition.type}
        return {"schema": definition.schema, **kind}


def owner_of(*ports: int) -> int:
    """User of the socket on 127.0.0.1 with these ports, its own and the other end's."""
    # Java's sockets are IPv6, with mapped addresses.
    for file, prefix in (("tcp", ""), ("tcp6", "0000000000000000FFFF0000")):
        ends = [f"{prefix}0100007F:{port:04X}" for port in ports]
        for line in Path(f"/proc/net/{file}").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1:3] == ends:
                return int(fields[7])
    raise LookupError(ports)


class _Handler(JsonHandler):
    registry: Registry

    def _handle(self) -> None:
        self.registry.users.append(
            owner_of(self.client_address[1], self.connection.getsockname()[1])
        )
        # Also where nobody looks at it: closing a socket with unread octets resets the
        # connection, and the client may lose what it had not read yet.
        body = self.body()
        if self.registry.raw is not None:
            self._answer_raw(self.registry.raw())
            return
        path = urlsplit(self.path).path
        try:
            status, document = 200, self.registry.answer(
                self.command, path, body, self.headers.get("Authorization")
            )  # fmt: skip
        except RefusalError as err:
            status, document = err.status, {"error_code": err.code, "message": str(err)}
        self.answer(status, document, "application/vnd.schemaregistry.v1+json")

    def _answer_raw(self, parts: Iterable[bytes]) -> None:
        self.close_connection = True
        # The client may have had enough.
        with contextlib.suppress(OSError):
            for part in parts:
                self.wfile.write(part)

    do_GET = do_POST = _handle  # noqa: N815 - named by http.server
