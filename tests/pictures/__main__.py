"""The command ``python -m pictures``: pictures of the dashboards for docs/pictures.

Grafana is not used: each panel's query is answered by a real Prometheus, or by ClickHouse, on what
real agents have published, and its answer is drawn by plotly where the dashboard has the panel.
"""

from __future__ import annotations

import argparse
import calendar
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import dashboards, flows_dashboard
from support.agent import flowstream

from pictures import draw
from pictures.draw import Answer, Row, Series
from pictures.scene import Scene, scene

if TYPE_CHECKING:
    from support.prometheus import Prometheus

WIDTH = 1400
STEP_S = 2
VARIABLES = {"job": "flowstream", "interface": ".+", "direction": ".+"}
HOSTS = {"fleet": ".+", "host": "edge-1"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pictures", description=__doc__)
    parser.add_argument("directory", type=Path, help="such as docs/pictures")
    to = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as name, scene(place := Path(name)) as fleet:
        for dashboard, instance in HOSTS.items():
            variables = {**VARIABLES, "instance": instance}
            _draw(dashboard, _measured(dashboard, fleet, variables), to)
        _draw("flows", _of_records(fleet, place), to)
    return 0


def _draw(dashboard: str, answers: dict[int, Answer], to: Path) -> None:
    file = to / f"dashboard-{dashboard}.png"
    draw.drawn(dashboards.DASHBOARDS[dashboard], answers, file, WIDTH)
    print(file)


def _measured(dashboard: str, fleet: Scene, variables: dict[str, str]) -> dict[int, Answer]:
    now = time.time()
    values = {"__rate_interval": "15s", "__range": f"{int(now - fleet.since)}s", **variables}
    answers = {}
    for panel in dashboards.panels(dashboard):
        asked = [
            (target, dashboards.filled(target["expr"], values)) for target in panel["targets"]
        ]
        if panel["type"] == "timeseries":
            series = [
                line
                for target, expr in asked
                for line in _lines(fleet.prometheus, target, expr, fleet.since, now)
            ]
            answers[panel["id"]] = Answer(series=series)
        elif panel["type"] == "stat":
            ((target, expr),) = asked
            answers[panel["id"]] = Answer(rows=_stat(fleet.prometheus, target, expr))
        else:
            answers[panel["id"]] = Answer(rows=_table(fleet.prometheus, panel, asked))
    return answers


def _lines(
    prometheus: Prometheus, target: dict[str, Any], expr: str, start: float, end: float
) -> list[Series]:
    return [
        Series(
            _named(target["legendFormat"], found["metric"]),
            [time for time, _ in found["values"]],
            [float(value) for _, value in found["values"]],
        )
        for found in prometheus.query_range(expr, start, end, STEP_S)
    ]


def _named(legend: str, labels: dict[str, str]) -> str:
    for name in dashboards.LEGEND.findall(legend):
        legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
    return legend.strip()


def _stat(prometheus: Prometheus, target: dict[str, Any], expr: str) -> list[Row]:
    return [
        {
            "value": float(found["value"][1]),
            "name": _named(target["legendFormat"], found["metric"]),
        }
        for found in prometheus.query(expr)
    ]


def _table(
    prometheus: Prometheus, panel: dict[str, Any], asked: list[tuple[dict[str, Any], str]]
) -> list[Row]:
    """Rows as the panel's transformations make them: joined by their labels, and renamed."""
    joined: dict[Any, Row] = {}
    key = {each["id"]: each["options"] for each in panel["transformations"]}
    by = key.get("joinByField", {}).get("byField")
    for target, expr in asked:
        for found in prometheus.query(expr):
            labels = found["metric"]
            name = labels.get(by) if by else tuple(sorted(labels.items()))
            row = joined.setdefault(name, {})
            row.update(labels)
            value = "Value" if len(asked) == 1 else f"Value #{target['refId']}"
            row[value] = float(found["value"][1])
    organised = key["organize"]
    order = organised["indexByName"]
    columns = {name for row in joined.values() for name in row}
    shown = sorted(
        columns - organised["excludeByName"].keys(), key=lambda name: order.get(name, 99)
    )
    renamed = organised["renameByName"]
    return [{renamed.get(name, name): row.get(name) for name in shown} for row in joined.values()]


def _of_records(fleet: Scene, place: Path) -> dict[int, Answer]:
    lines = place / "flows.jsonl"
    lines.write_text(flowstream("cat", fleet.broker.url).stdout, encoding="utf-8")
    panels = {str(panel["id"]): panel for panel in dashboards.panels("flows")}
    window = int(fleet.since), int(time.time())
    texts = {
        number: flows_dashboard.expanded(panel["targets"][0]["rawSql"], window, 5)
        for number, panel in panels.items()
    }
    return {
        int(number): _of(panels[number], answer)
        for number, answer in flows_dashboard.answers(lines, texts).items()
    }


def _of(panel: dict[str, Any], answer: dict[str, Any]) -> Answer:
    names = [column["name"] for column in answer["meta"]]
    rows = [dict(zip(names, row, strict=True)) for row in answer["data"]]
    if panel["type"] == "stat":
        return Answer(
            rows=[{"value": float(next(iter(row.values()))), "name": ""} for row in rows]
        )
    if panel["type"] != "timeseries":
        return Answer(rows=rows)
    lines: dict[str, Series] = {}
    for row in rows:
        line = lines.setdefault(row["name"], Series(row["name"], [], []))
        line.times.append(_seconds(row["time"]))
        line.values.append(row["value"])
    return Answer(series=list(lines.values()))


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


if __name__ == "__main__":
    sys.exit(main())
