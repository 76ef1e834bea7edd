"""An agent's metrics and health, as clients read them."""

from __future__ import annotations

import http.client
import json
import socket
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENMETRICS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
}


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    content_type: str
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content


class Scrape:
    """The samples of one answer."""

    def __init__(self, answer: Answer) -> None:
        assert answer.status == 200, answer
        read = parser if answer.content_type.startswith("text/plain") else openmetrics
        families = read.text_string_to_metric_families(answer.body.decode())
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels; there is at least one."""
        found: list[float] = [
            each.value
            for each in self.samples
            if each.name == f"flowstream_{name}" and labels.items() <= each.labels.items()
        ]
        assert found, name
        return sum(found)

    def by_attachment(self, name: str) -> Mapping[tuple[str, str, str], float]:
        """Sums of a metric's samples for each attachment."""
        sums: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        for each in self.samples:
            if each.name == f"flowstream_{name}":
                its = each.labels
                sums[its["interface"], its["direction"], its["netns"]] += each.value
        return sums

    def require_equation(self) -> None:
        """Every packet and octet that was seen is in one term, for each attachment."""
        for unit in ("packets", "bytes"):
            counted = ("no_flow", "published", "lost", "in_doubt")
            terms = [self.by_attachment(f"{name}_{unit}_total") for name in counted]
            terms.append(waiting := self.by_attachment(f"waiting_{unit}"))
            seen = self.by_attachment(f"seen_{unit}_total")
            assert {key: sum(term[key] for term in terms) for key in seen} == seen
            assert min(waiting.values()) >= 0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def free_port() -> int:
    """A port that nobody listens on, as far as can be known."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def get(at: int | Path, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """GET from a port of 127.0.0.1, or a UNIX socket."""
    connection = (
        _UnixConnection(at)
        if isinstance(at, Path)
        else http.client.HTTPConnection("127.0.0.1", at, timeout=60)
    )
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers["Content-Type"], answer.read())
    finally:
        connection.close()


def scrape(at: int | Path, headers: Mapping[str, str] | None = None) -> Scrape:
    """Read the metrics."""
    return Scrape(get(at, "/metrics", headers))
