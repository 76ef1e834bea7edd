"""The dashboards of compose/grafana and the rules of compose/prometheus, and their queries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMPOSE = Path(__file__).parents[2] / "compose"
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((COMPOSE / "grafana" / "dashboards").glob("*.json"))
}
RULES = COMPOSE / "prometheus" / "rules.yml"
PROGRAMS = COMPOSE.parent / ".cache" / "prometheus" / "usr" / "bin"
"""Prometheus and promtool, from tests/prometheus/fetch.sh."""
RATE_INTERVAL = "5m"
RANGE = "1h"

LEGEND = re.compile(r"\{\{(\w+)\}\}")
"""Labels in the name of a series."""

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")


class Query(NamedTuple):
    """A query of a panel, as it stands in the dashboard."""

    dashboard: str
    panel: dict[str, Any]
    target: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.target.get("expr") or self.target["rawSql"])

    @property
    def name(self) -> str:
        """Its place, such as ``host: Latency B``."""
        return f"{self.dashboard}: {self.panel['title']} {self.target['refId']}"


def panels(dashboard: str) -> list[dict[str, Any]]:
    """All panels but the rows."""
    return [each for each in DASHBOARDS[dashboard]["panels"] if each["type"] != "row"]


def queries(dashboard: str) -> Iterator[Query]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(dashboard, panel, target)


def filled(text: str, variables: Mapping[str, str]) -> str:
    """``text`` with Grafana's variables replaced; one that is missing raises ``KeyError``."""
    values = {"__rate_interval": RATE_INTERVAL, "__range": RANGE, **variables}
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def rules() -> list[dict[str, Any]]:
    """All rules, as they stand in the file."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]
