"""Metrics and labels of a PromQL expression, against those that agents and rules have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from flowstream.metrics.names import METRICS
from support.dashboards import rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TARGET: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds to every series of a target."""
OTHERS: Final[Mapping[str, frozenset[str]]] = {
    "up": frozenset(),
    "process_cpu_seconds_total": frozenset(),
    "process_max_fds": frozenset(),
    "process_open_fds": frozenset(),
    "process_resident_memory_bytes": frozenset(),
    "process_start_time_seconds": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate"}),
}
"""Metrics of Prometheus and of its client library, with their labels."""

_SELECTOR = re.compile(r"\b([a-z_:]\w*(?::[\w:]+)?|ALERTS)\b(?!\s*\()(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_WORDS = frozenset({"and", "or", "unless", "by", "on", "without", "ignoring", "offset", "bool"})


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, and the labels that it is selected by."""
    text = _GROUPING.sub(" ", expr)
    bare = re.sub(r'"[^"]*"', '""', text)
    for name, labels in _SELECTOR.findall(re.sub(r"\[[^\]]*\]", "", bare)):
        if name not in _WORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))


def checked(expr: str) -> set[str]:
    """Labels that the metrics of an expression have; all of them must be known."""
    known: set[str] = set()
    for name, chosen in selectors(expr):
        labels = labels_of(name)
        assert chosen <= labels, f"{name} has no label {chosen - labels}"
        known |= labels
    for grouped in _GROUPING.findall(expr):
        names = {each.strip() for each in grouped.split(",")}
        assert names <= known, f"no metric has the label {names - known}: {expr}"
    return known


def labels_of(name: str) -> frozenset[str] | set[str]:
    """All labels of a metric; one that neither agents nor rules have raises ``KeyError``."""
    if name in OTHERS:
        return OTHERS[name] | TARGET
    for rule in rules():
        if rule.get("record") == name:
            level, _, _ = name.partition(":")
            return {"job", *level.split("_")}
    base = name.removesuffix("_bucket")
    metric = METRICS[base]
    assert (base != name) == (metric.kind == "histogram"), name
    return {*metric.labels, *TARGET, *(["le"] if base != name else [])}
