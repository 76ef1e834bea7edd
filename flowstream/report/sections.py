"""Sections of the page: a title, what is to be said, a plot, and its numbers in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowstream.report.markup import element, joined, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.report.figures import Figure
    from flowstream.report.markup import Html


class Table(NamedTuple):
    """A table; its first ``texts`` columns are text, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


class Section(NamedTuple):
    """A section; ``alternative`` says what the figure shows."""

    name: str
    title: str
    notes: Sequence[str]
    tables: Sequence[Table]
    figure: Figure | None = None
    alternative: str = ""

    def html(self) -> Html:
        """Return the markup, with an empty element in the place of the plot."""
        parts = []
        if self.figure:
            plot = element(
                "div",
                id=self.plot,
                class_="plot",
                role="img",
                aria_label=f"{self.alternative}; its numbers are in the table",
            )
            parts.append(element("figure", plot))
        parts += [
            table(each.caption, each.columns, each.rows, texts=each.texts) for each in self.tables
        ]
        return element(
            "section",
            element("h2", self.title, id=self.name),
            joined(element("p", note, class_="quiet") for note in self.notes),
            element("div", *parts, class_="beside") if self.figure else joined(parts),
            aria_labelledby=self.name,
        )

    @property
    def plot(self) -> str:
        """Id of the plot's element."""
        return f"plot-{self.name}"
