"""HTML in which text is always escaped, and text for labels of plots."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from flowstream.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_LONGEST: Final = 500
"""Characters of a text: names in records may be as long as a message."""


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str) -> Html:
    """Return an element; children that are not markup are text.

    Underscores at the end of an attribute's name are left out, others are hyphens.
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_shown(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{named}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Return the parts one after the other; those that are not markup are text."""
    return Html(
        "".join(part if isinstance(part, Html) else escape(_shown(part)) for part in parts)
    )


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1
) -> Html:
    """Return a table; the first ``texts`` columns are text, the others numbers."""
    heads = [
        element("th", name, scope="col", **({} if n < texts else {"class": "number"}))
        for n, name in enumerate(columns)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, **({} if n < texts else {"class": "number"}))
                for n, cell in enumerate(row[1:], 1)
            ),
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", *heads)),
            element("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def label(text: str) -> str:
    """Return text for a plot, where plotly would read tags and entities."""
    return escape(_shown(text), quote=False)


def _shown(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
