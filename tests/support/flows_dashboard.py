"""The dashboard of flows in ClickHouse, as Grafana and its plugin would ask."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.dashboards import COMPOSE
from support.engines import ask_engines

if TYPE_CHECKING:
    from collections.abc import Mapping

TOP = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("dashboard_queries.py")


def expanded(
    text: str, window: tuple[int, int], interval_s: int, direction: str = "0", address: str = ""
) -> str:
    """A query for the Unix seconds of ``window``, of all hosts.

    The plugin's macros are in its pkg/macros/macros.go.
    """
    start, end = window
    text = re.sub(r"\$__conditionalAll\(([^()]*\([^()]*\)), \$host\)", "1=1", text)
    text = re.sub(
        r"\$__timeFilter\((\w+)\)", rf"\1 >= toDateTime({start}) AND \1 <= toDateTime({end})", text
    )
    text = re.sub(
        r"\$__timeInterval\((\w+)\)",
        rf"toStartOfInterval(toDateTime(\1), INTERVAL {interval_s} second)",
        text,
    )
    for macro, value in (
        ("$__fromTime", f"toDateTime({start})"),
        ("$__toTime", f"toDateTime({end})"),
        ("$__interval_s", str(interval_s)),
        ("${direction:raw}", direction),
        ("${address:sqlstring}", f"'{address}'"),
    ):
        text = text.replace(macro, value)
    assert "$" not in text
    return text


def answers(lines: Path, queries: Mapping[str, str]) -> dict[str, Any]:
    """Answers by name, each with ``meta`` and ``data``, over JSON records in a file."""
    order = {"tables": _tables(lines.parent), "lines": str(lines), "queries": [*queries.items()]}
    found: dict[str, Any] = ask_engines(RUNNER, order, 180)
    return found


def _tables(place: Path) -> str:
    """The DDL that compose/clickhouse/tables.sh gives to ClickHouse."""
    client = place / "clickhouse-client"
    client.write_text("#!/bin/sh\nexec cat\n", encoding="utf-8")
    client.chmod(0o755)
    script = (COMPOSE / "clickhouse" / "tables.sh").read_text(encoding="utf-8")
    done = subprocess.run(
        ["sh", "-c", script.replace("/schemas/", f"{TOP}/schemas/")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}"},
    )
    assert "kafka_broker_list = 'kafka:19092'" in done.stdout
    return done.stdout
