"""Every query of the dashboards and rules in a real Prometheus that scrapes a real agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from broker import free_ports
from support.agent import Agent, delivered, on
from support.dashboards import Query, filled, queries, rules
from support.prometheus import Prometheus
from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker import Broker
    from support.net import Wire

HOST = "edge-1"
VARIABLES = {"job": "flowstream", "instance": HOST, "interface": ".+", "direction": ".+"}
QUERIES = {query.name: query for board in ("fleet", "host") for query in queries(board)}
RULES = {rule.get("record") or rule["alert"]: rule["expr"] for rule in rules()}
EMPTY_WHEN_WELL = {
    "fleet: Alerts that fire A",
    "fleet: Loss A",
    "fleet: Packets lost, by cause A",
    "fleet: Spool A",
    "host: Packets lost, by cause A",
    "host: Records in doubt, by cause A",
    "host: Where packets end B",
    "host: Where packets end C",
    "host: Where packets end D",
}
PACKETS = 10_007
TIMEOUT_S = 60.0


class Monitored(NamedTuple):
    prometheus: Prometheus
    seen: int


@pytest.fixture(scope="module")
def monitored(
    wire: Wire, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Monitored]:
    """An agent that has published what it saw, and a Prometheus that has its last counts."""
    sender, receiver = wire
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    spool: Path = tmp_path_factory.mktemp("spool") / "spool"
    options = ("--sink", broker.url, "--topic-prefix", "monitored", "--interval", 0.2)
    with (
        Agent(*on(receiver), *options, "--spool", spool, "--metrics", address) as agent,
        Prometheus({HOST: address}) as prometheus,
    ):
        agent.publishing()
        prometheus.ready()
        # A rate needs counts before the traffic.
        wait_until(lambda: value(prometheus, "flowstream_seen_packets_total") == 0, TIMEOUT_S)
        seen = sum(delivered(sender, receiver, PACKETS, "-f", 101) for _ in range(2))
        published = "flowstream_published_packets_total"
        assert wait_until(lambda: value(prometheus, published) == seen, TIMEOUT_S)
        # The rules use what was scraped before.
        recorded = [name for name in RULES if ":" in name]
        assert wait_until(lambda: all(map(prometheus.query, recorded)), TIMEOUT_S)
        yield Monitored(prometheus, seen)
        agent.stop()


def value(prometheus: Prometheus, expr: str) -> float | None:
    """The value of an expression with one series, None while it has none."""
    found = prometheus.query(expr)
    return float(found[0]["value"][1]) if found else None


def text(query: Query) -> str:
    return filled(query.text, VARIABLES)


@pytest.mark.parametrize("name", QUERIES)
def test_queries_of_panels(monitored: Monitored, name: str) -> None:
    expr = text(QUERIES[name])
    found = monitored.prometheus.query(expr)
    if name not in EMPTY_WHEN_WELL:
        assert found
        return
    assert not found
    if "ALERTS" not in expr:
        assert expr.count("> 0") == 1
        assert monitored.prometheus.query(expr.replace("> 0", ""))


@pytest.mark.parametrize("name", RULES)
def test_expressions_of_rules(monitored: Monitored, name: str) -> None:
    """Alerts are silent; recorded series are there."""
    assert bool(monitored.prometheus.query(RULES[name])) == (":" in name)


def test_what_stands_in_the_panels(monitored: Monitored) -> None:
    def shown(name: str) -> list[dict[str, Any]]:
        return monitored.prometheus.query(text(QUERIES[name]))

    terms = {
        ref: float(found["value"][1])
        for ref in ("seen", "noflow", "published", "lost", "doubt", "waiting", "difference")
        for found in shown(f"host: The loss equation, since the agent started {ref}")
    }
    others = dict.fromkeys(("noflow", "lost", "doubt", "waiting", "difference"), 0)
    assert terms == {"seen": monitored.seen, "published": monitored.seen, **others}
    for name in ("Agents up A", "Versions A"):
        assert float(shown(f"fleet: {name}")[0]["value"][1]) == 1
    for name in ("Agents down A", "Hosts losing packets A", "Hosts that cannot publish A"):
        assert float(shown(f"fleet: {name}")[0]["value"][1]) == 0
    (host,) = shown("fleet: Hosts up")
    assert host["metric"] == {"instance": HOST}


def test_hosts_are_chosen(monitored: Monitored) -> None:
    other = {**VARIABLES, "instance": "edge-2"}
    for name, query in QUERIES.items():
        if "vector(0)" not in query.text:
            assert monitored.prometheus.query(filled(query.text, other)) == [], name
