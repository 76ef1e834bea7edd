"""The dashboards of compose/grafana, without a server: form, links, metrics and labels."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import pytest
from support import promql
from support.dashboards import DASHBOARDS, Query, panels, queries

PROMETHEUS, CLICKHOUSE = "prometheus", "grafana-clickhouse-datasource"
SOURCES = {"fleet": PROMETHEUS, "host": PROMETHEUS, "flows": CLICKHOUSE}
QUERIES = [
    query for name, kind in SOURCES.items() for query in queries(name) if kind == PROMETHEUS
]
UNITS = {
    *("none", "short", "locale", "percentunit", "bytes", "bps", "pps", "rps", "s"),
    "dateTimeFromNow",
}
"""Units of Grafana (packages/grafana-data/src/valueFormats/categories.ts) that are used."""
WIDTH = 24
"""Columns of Grafana's grid."""


@pytest.mark.parametrize("name", DASHBOARDS)
def test_what_grafana_needs(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert (dashboard["id"], dashboard["uid"]) == (None, f"flowstream-{name}")
    assert dashboard["schemaVersion"] == 41
    assert dashboard["description"].endswith(".")
    for panel in panels(name):
        assert panel["type"] in {"stat", "timeseries", "table", "barchart"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) >= 1
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["thresholds"]["steps"][0]["value"] is None
        used = {defaults["unit"]} | {
            each["value"]
            for override in panel["fieldConfig"]["overrides"]
            for each in override["properties"]
            if each["id"] == "unit"
        }
        assert used <= UNITS, panel["title"]


def test_all_dashboards_are_tested() -> None:
    assert DASHBOARDS.keys() == SOURCES.keys()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_numbered_and_side_by_side(name: str) -> None:
    numbers = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(numbers) == len(set(numbers))
    titles = Counter(panel["title"] for panel in panels(name))
    assert max(titles.values()) == 1
    cells: Counter[tuple[int, int]] = Counter()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        columns = range(place["x"], place["x"] + place["w"])
        cells.update(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
    assert max(cells.values()) == 1
    lines = max(line for _, line in cells) + 1
    assert len(cells) == WIDTH * lines


@pytest.mark.parametrize("name", DASHBOARDS)
def test_sources_are_chosen_by_the_reader(name: str) -> None:
    """Identifiers of data sources are those of a site."""
    source = {"type": SOURCES[name], "uid": "${datasource}"}
    (variable, *others) = DASHBOARDS[name]["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    assert variable["query"] == SOURCES[name]
    for panel in panels(name):
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
    assert all(each["datasource"] == source for each in others if each["type"] == "query")


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_defined_and_used(name: str) -> None:
    defined = {each["name"] for each in DASHBOARDS[name]["templating"]["list"]}
    used = {
        found[0] or found[1]
        for text in strings(DASHBOARDS[name])
        for found in re.findall(r"\$(?:\{(\w+)[}:.]|(\w+))", text)
    }
    assert {each for each in used if not each.startswith("__")} == defined


def test_links_lead_to_dashboards_and_their_variables() -> None:
    known = {dashboard["uid"]: dashboard for dashboard in DASHBOARDS.values()}
    found = 0
    for name, dashboard in DASHBOARDS.items():
        for text in strings(dashboard):
            if not text.startswith("/d/"):
                continue
            uid, _, query = text.removeprefix("/d/").partition("?")
            variables = {each["name"] for each in known[uid]["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=", query)) <= variables
            assert uid != f"flowstream-{name}"
            found += 1
    assert found == 7


@pytest.mark.parametrize("name", DASHBOARDS)
def test_series_have_a_legend_and_say_what_they_are(name: str) -> None:
    for panel in panels(name):
        if panel["type"] != "timeseries":
            continue
        assert panel["options"]["legend"]["showLegend"]
        assert panel["fieldConfig"]["defaults"]["min"] == 0
        for target in panel["targets"]:
            assert target.get("legendFormat", "") != "__auto"
        if "> 0" in str(panel["targets"]):
            assert "Empty when" in panel["description"] or "each" in panel["description"].lower()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_metrics_and_labels_are_known(query: Query) -> None:
    labels = promql.checked(query.text)
    legend = query.target["legendFormat"]
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels


@pytest.mark.parametrize("name", [name for name, kind in SOURCES.items() if kind == PROMETHEUS])
def test_variables_ask_for_known_metrics(name: str) -> None:
    asked = [
        each["query"]["query"]
        for each in DASHBOARDS[name]["templating"]["list"]
        if each["type"] == "query"
    ]
    for query in asked:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert found
        assert found[2] in promql.checked(found[1])


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_every_query_is_of_the_chosen_hosts(query: Query) -> None:
    """Each selector names job and host, but for the alerts, which are those of the fleet."""
    for metric, labels in promql.selectors(query.text):
        assert labels >= {"job", "instance"} or metric == "ALERTS"
