"""Draws a dashboard: its panels as Grafana lays them out, with answers to its queries."""

from __future__ import annotations

import html
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Row = dict[str, Any]

LINE, GAP = 30, 8
"""Pixels of a line of the grid, and between panels."""
COLOURS = {"green": "#73bf69", "yellow": "#eab839", "red": "#f2495c", "blue": "#5794f2"}
PALETTE = (
    *("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0"),
    *("#508642", "#cca300"),
)
STYLE = """
body {margin: 0; background: #111217; color: #ccccdc; font: 13px "DejaVu Sans", sans-serif}
#grid {position: relative; width: WIDTHpx; height: HEIGHTpx}
.panel {position: absolute; box-sizing: border-box; background: #181b1f; overflow: hidden;
  border: 1px solid #2c3235; border-radius: 2px; padding: 6px 8px}
.panel h2 {font-size: 13px; font-weight: 500; margin: 0 0 4px}
.row {position: absolute; font-size: 14px; font-weight: 500; padding: 6px 0}
.stat {display: flex; height: calc(100% - 24px); align-items: center; justify-content: center;
  font-size: 28px; font-weight: 500}
table {border-collapse: collapse; width: 100%; font-size: 12px}
th, td {text-align: left; padding: 4px 8px; border-bottom: 1px solid #2c3235; white-space: nowrap}
th {color: #6e9fff; font-weight: 500}
.none {display: flex; height: 70%; align-items: center; justify-content: center; color: #8e8e9a}
"""


class Series(NamedTuple):
    """A line: its name and points, times in Unix seconds."""

    name: str
    times: list[float]
    values: list[float]


class Answer(NamedTuple):
    """What a panel shows: lines, or rows by the names of their columns."""

    series: Sequence[Series] = ()
    rows: Sequence[Row] = ()


def drawn(
    dashboard: Mapping[str, Any], answers: Mapping[int, Answer], to: Path, width: int
) -> None:
    """Write a picture of the dashboard; ``answers`` by the id of the panel."""
    parts = [_panel(panel, answers.get(panel["id"]), width) for panel in dashboard["panels"]]
    height = max(_bottom(panel) for panel in dashboard["panels"])
    style = STYLE.replace("WIDTH", str(width)).replace("HEIGHT", str(height))
    page = (
        f"<!DOCTYPE html><meta charset=utf-8><style>{style}</style>"
        f"<script>{get_plotlyjs()}</script><div id=grid>{''.join(parts)}</div>"
    )
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "page.html")
        file.write_text(page, encoding="utf-8")
        subprocess.run(
            [
                *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu"),
                *(
                    "--hide-scrollbars",
                    "--virtual-time-budget=20000",
                    f"--user-data-dir={place}/u",
                ),
                *(f"--screenshot={to}", f"--window-size={width},{height}", f"file://{file}"),
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )


def _bottom(panel: Mapping[str, Any]) -> int:
    return int((panel["gridPos"]["y"] + panel["gridPos"]["h"]) * LINE + GAP)


def _panel(panel: Mapping[str, Any], answer: Answer | None, width: int) -> str:
    place = panel["gridPos"]
    column = (width - GAP) / 24
    wide, high = round(place["w"] * column) - GAP, place["h"] * LINE - GAP
    where = (
        f"left:{round(place['x'] * column) + GAP}px;top:{place['y'] * LINE + GAP}px;"
        f"width:{wide}px;height:{high}px"
    )
    title = html.escape(panel["title"])
    if panel["type"] == "row":
        return f'<div class=row style="{where}">{title}</div>'
    kinds = {"stat": _stat, "timeseries": _lines, "table": _table, "barchart": _bars}
    inside = kinds[panel["type"]](panel, answer or Answer(), wide - 18, high - 34)
    return f'<div class=panel style="{where}"><h2>{title}</h2>{inside}</div>'


def _stat(panel: Mapping[str, Any], answer: Answer, _wide: int, _high: int) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    if not answer.rows:
        return f"<div class=stat>{defaults.get('noValue', 'No data')}</div>"
    (row, *_) = answer.rows
    shown, colour = _shown(row["value"], defaults)
    if panel["options"]["textMode"] == "name":
        shown = str(row["name"])
    size = 28 if len(shown) < 10 else 17
    style = f"color:{colour};font-size:{size}px"
    return f'<div class=stat style="{style}">{html.escape(shown)}</div>'


def _lines(panel: Mapping[str, Any], answer: Answer, wide: int, high: int) -> str:
    if not answer.series:
        return "<div class=none>No data</div>"
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    stacked = custom["stacking"]["mode"] == "normal"
    figure = go.Figure()
    for n, line in enumerate(answer.series):
        colour = PALETTE[n % len(PALETTE)]
        figure.add_scatter(
            x=[time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(each)) for each in line.times],
            y=line.values,
            name=line.name,
            mode="lines",
            line={"width": 1, "color": colour},
            stackgroup="all" if stacked else None,
            fill=None if stacked or n else "tozeroy",
            fillcolor=_faded(colour, custom["fillOpacity"]),
        )
    if custom["thresholdsStyle"]["mode"] == "dashed":
        for step in defaults["thresholds"]["steps"][1:]:
            dashed = {"color": COLOURS[step["color"]], "width": 1, "dash": "dash"}
            figure.add_hline(y=step["value"], line=dashed)
    _laid_out(figure, wide, high)
    ticks = {"percentunit": ".1%", "none": "~g", "s": "~g"}
    figure.update_xaxes(tickformat="%H:%M:%S")
    figure.update_yaxes(rangemode="tozero", tickformat=ticks.get(defaults["unit"], "~s"))
    return _html(figure)


def _bars(panel: Mapping[str, Any], answer: Answer, wide: int, high: int) -> str:
    x = panel["options"]["xField"]
    (y,) = (name for name in answer.rows[0] if name != x)
    figure = go.Figure(
        go.Bar(
            x=[row[x] for row in answer.rows],
            y=[float(row[y]) for row in answer.rows],
            marker_color=PALETTE[0],
        )
    )
    _laid_out(figure, wide, high)
    return _html(figure)


def _laid_out(figure: go.Figure, wide: int, high: int) -> None:
    figure.update_layout(
        template="plotly_dark",
        width=wide,
        height=high,
        margin={"l": 48, "r": 8, "t": 4, "b": 4},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 11},
        showlegend=len(figure.data) > 0 and figure.data[0].type == "scatter",
        legend={"orientation": "h", "y": -0.12, "x": 0},
    )
    figure.update_xaxes(gridcolor="#2c3235", nticks=5, tickangle=0)
    figure.update_yaxes(gridcolor="#2c3235", zerolinecolor="#2c3235")


def _html(figure: go.Figure) -> str:
    return str(
        plotly.io.to_html(
            figure, full_html=False, include_plotlyjs=False, config={"displayModeBar": False}
        )
    )


def _faded(colour: str, percent: int) -> str:
    red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return f"rgba({red},{green},{blue},{percent / 100})"


def _table(panel: Mapping[str, Any], answer: Answer, _wide: int, _high: int) -> str:
    if not answer.rows:
        return "<div class=none>No data</div>"
    overrides = {
        each["matcher"]["options"]: {one["id"]: one["value"] for one in each["properties"]}
        for each in panel["fieldConfig"]["overrides"]
    }
    names = list(answer.rows[0])
    rows = list(answer.rows)
    for sort in panel["options"]["sortBy"]:
        rows.sort(key=lambda row: _number(row.get(sort["displayName"])), reverse=sort["desc"])
    lines = []
    for row in rows:
        cells = []
        for name in names:
            shown, colour = _shown(row.get(name), overrides.get(name, {}))
            coloured = "custom.cellOptions" in overrides.get(name, {})
            style = f' style="color:{colour}"' if coloured and colour else ""
            cells.append(f"<td{style}>{html.escape(shown)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1.0


def _shown(value: Any, options: Mapping[str, Any]) -> tuple[str, str]:
    """Text and colour of a value."""
    for mapping in options.get("mappings", []):
        key = f"{value:g}" if isinstance(value, float) else str(value)
        if key in mapping["options"]:
            found = mapping["options"][key]
            return str(found["text"]), COLOURS[found["color"]]
    if value is None:
        return "", ""
    try:
        number = float(value)
    except ValueError:
        return str(value), ""
    colour = ""
    for step in options.get("thresholds", {}).get("steps", []):
        if step["value"] is None or number >= step["value"]:
            colour = COLOURS[step["color"]]
    return formatted(number, options.get("unit", "none"), options.get("decimals")), colour


def formatted(value: float, unit: str, decimals: int | None) -> str:
    """Text of a value in one of Grafana's units."""
    digits = 1 if decimals is None else decimals
    if unit == "percentunit":
        return f"{value * 100:.{digits}f}%"
    if unit == "dateTimeFromNow":
        return f"{max(0, round((time.time() - value / 1000) / 60))} minutes ago"
    if unit == "locale" or (unit == "none" and value == int(value)):
        return f"{value:,.0f}"
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.{digits}f} s"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    suffix = {"bps": "b/s", "pps": "p/s", "rps": "rec/s"}.get(unit, "")
    return _scaled(value, 1000, tuple(each + suffix for each in ("", "k", "M", "G", "T")))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.1f}".removesuffix(".0") + f" {units[power]}".rstrip()
