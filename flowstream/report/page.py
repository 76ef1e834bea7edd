"""The page: one file that needs no network, and is not permitted any."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import msgspec
from plotly.offline import get_plotlyjs

from flowstream.report.markup import Html, element, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.report.sections import Section

_KEPT: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}
"""Characters with a meaning in HTML, as JSON can write them."""


def page(
    title: str,
    lead: Sequence[str],
    facts: Mapping[str, str],
    verdict: Html,
    sections: Sequence[Section],
    footer: str,
) -> bytes:
    """Return the page. Its policy permits its own scripts, by their digests, and nothing else."""
    scripts = [get_plotlyjs(), _asset("page.js")]
    data = {each.plot: each.figure for each in sections if each.figure}
    figures = msgspec.json.encode(data).decode().translate(_KEPT)
    head = element(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        element("style", Html(_asset("page.css"))),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", title),
            joined(element("p", line) for line in lead),
            _navigation(sections),
        ),
        element("main", verdict, _facts(facts), *(each.html() for each in sections)),
        element("footer", footer),
        element("script", Html(figures), type="application/json", id="figures"),
        *(element("script", Html(script)) for script in scripts),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n".encode()


def _asset(name: str) -> str:
    return files("flowstream.report").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = (b64encode(sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Plotly sets styles, and makes an image of a plot through a data URL.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _facts(facts: Mapping[str, str]) -> Html:
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value))
            for name, value in facts.items()
        ),
        class_="facts",
    )


def _navigation(sections: Sequence[Section]) -> Html:
    links = [element("a", each.title, href=f"#{each.name}") for each in sections]
    return element(
        "nav", element("ul", *(element("li", link) for link in links)), aria_label="Sections"
    )
