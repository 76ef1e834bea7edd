"""The rules and alerts of compose/prometheus, by promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import promql
from support.dashboards import COMPOSE, PROGRAMS, RULES, rules

PROMETHEUS = COMPOSE / "prometheus"
CASES = PROMETHEUS / "rules_test.yml"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in rules() if "record" in rule}
TOP = Path(__file__).parents[1]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [PROGRAMS / "promtool", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_and_configuration() -> None:
    found = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert f"SUCCESS: {len(rules())} rules found" in found
    promtool("check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")


def test_cases() -> None:
    assert "SUCCESS" in promtool("test", "rules", CASES)


def cases() -> list[dict[str, Any]]:
    document = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    return list(document["tests"])


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    expected = [
        bool(case["exp_alerts"])
        for test in cases()
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert
    ]
    assert set(expected) == {True, False}


@pytest.mark.parametrize("record", RECORDED)
def test_each_recorded_series_has_a_case(record: str) -> None:
    asked = [case["expr"] for test in cases() for case in test.get("promql_expr_test", [])]
    assert any(expr.startswith(record) for expr in asked)


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_say_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert notes["description"].endswith(".")
    page, _, heading = notes["runbook_url"].partition("#")
    text = (TOP / page).read_text(encoding="utf-8")
    assert heading == alert.lower()
    (section,) = re.findall(rf"(?ms)^### {alert}\n(.*?)(?=^##|\Z)", text)
    assert len(section.split()) > 10


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_metrics_and_labels_are_known(rule: dict[str, Any]) -> None:
    labels = promql.checked(rule["expr"])
    shown = re.findall(r"\$labels\.(\w+)", str(rule.get("annotations", "")))
    assert set(shown) <= labels


def test_the_page_has_no_other_alerts() -> None:
    text = (TOP / "docs" / "how-to" / "monitor.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^### (Flowstream\w+)$", text) == list(ALERTS)
