"""The page of a report as a reader of HTML, and as a browser, sees it."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Page(HTMLParser):
    """``tables`` by caption, as rows of cells, the head first; ``figures`` by the plot's id.

    ``elements`` are the start tags with their attributes, ``text`` is everything outside
    scripts and styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        (data,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html)
        self.figures: dict[str, Any] = json.loads(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._inside.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows
            self._rows = []

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self._inside):
            return
        self.text += data
        if "caption" in self._inside:
            self._caption += data
        elif self._inside and self._inside[-1] in ("td", "th"):
            self._rows[-1][-1] += data

    def table(self, beginning: str) -> dict[str, list[str]]:
        """Rows of the table whose caption begins so, by their first cell."""
        (rows,) = (rows for name, rows in self.tables.items() if name.startswith(beginning))
        return {first: rest for first, *rest in rows[1:]}


def opened(
    page: Path, profile: Path, *, dark: bool = False, width: int = 1_400
) -> tuple[str, str]:
    """Load a page in a browser that resolves no name; return its document and its messages."""
    options = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},900"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"),
    ]
    done = subprocess.run(
        ["chromium", *options, page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # The browser's own pages may say something, too.
    messages = [
        line
        for line in done.stderr.splitlines()
        if "CONSOLE" in line and "source: chrome://" not in line
    ]
    return done.stdout, "\n".join(messages)
