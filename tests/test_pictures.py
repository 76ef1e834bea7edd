"""Drawing of the dashboards for the documents (tests/pictures), by a real browser."""

from __future__ import annotations

import struct

import pytest
from pictures import draw
from pictures.draw import Answer, Series
from support.dashboards import DASHBOARDS

WIDTH = 1_000
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.5142, "percentunit", 2, "51.42%"),
        (1263603, "locale", None, "1,263,603"),
        (4, "none", None, "4"),
        (0.0421, "s", None, "42 ms"),
        (312.4, "s", 0, "312 s"),
        (3984588, "bytes", None, "3.8 MiB"),
        (0, "bytes", None, "0 B"),
        (5370, "pps", None, "5.4 kp/s"),
        (2_000_000, "bps", None, "2 Mb/s"),
        (65_600, "short", None, "65.6 k"),
    ],
)
def test_values_have_their_unit(value, unit, decimals, text):
    assert draw.formatted(value, unit, decimals) == text


def test_a_dashboard_is_drawn(tmp_path):
    dashboard = DASHBOARDS["host"]
    kinds = {panel["id"]: panel["type"] for panel in dashboard["panels"]}
    examples = {
        "stat": Answer(rows=[{"value": 1.0, "name": "0.1.0"}]),
        "timeseries": Answer(series=[Series("eth0", [0, 60, 120], [0, 7, 3])]),
        "table": Answer(rows=[{"Interface": "eth0", "Seen": 7.0, "Lost": None}]),
    }
    answers = {number: examples[kind] for number, kind in kinds.items() if kind != "row"}
    for file, shown in (("full.png", answers), ("empty.png", {})):
        draw.drawn(dashboard, shown, tmp_path / file, WIDTH)
    full, empty = ((tmp_path / name).read_bytes() for name in ("full.png", "empty.png"))
    last = dashboard["panels"][-1]["gridPos"]
    height = (last["y"] + last["h"]) * draw.LINE + draw.GAP
    for content in (full, empty):
        assert content.startswith(PNG)
        assert struct.unpack(">II", content[16:24]) == (WIDTH, height)
    assert len(full) > len(empty)
