"""Check the pages of a site: links lead to places that are there, nothing comes from a network."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOADED: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
"""Attributes whose targets a browser loads by itself."""


class Page(HTMLParser):
    """The names and links of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.names = {"", "top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element is called, leads to and loads."""
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if _LOADED.get(tag) in given:
            self.loads.append(given[_LOADED[tag]])


def faults(directory: Path) -> Iterator[str]:
    """Return what is wrong with the pages below ``directory``, a line each."""
    pages = {path: Page(path) for path in sorted(directory.rglob("*.html"))}
    if not pages:
        yield f"{directory}: no pages"
    for path, page in pages.items():
        for target in page.links + page.loads:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loads and parts.scheme != "data":
                    yield f"{path}: loads {target}"
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.is_file():
                yield f"{path}: {target} is missing"
            elif there in pages and unquote(parts.fragment) not in pages[there].names:
                yield f"{path}: {target}: no such place on that page"


def main() -> int:
    """Print the faults of the site in the directory named; return the exit status."""
    found = list(faults(Path(sys.argv[1]).resolve()))
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
