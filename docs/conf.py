"""Configuration of Sphinx, which builds the site from these pages: make docs."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import flowstream  # noqa: E402

project = "flowstream"
release = flowstream.__version__
extensions = ["myst_parser"]
exclude_patterns = ["_static", "pictures"]
# As GitHub makes anchors, so that links lead to the same places there.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
# Structs of DuckDB and letters of jq are not in the highlighters' grammars.
suppress_warnings = ["misc.highlighting_failure"]

# Quotation marks are those of programs.
smartquotes = False

html_theme = "furo"
html_title = f"flowstream {release}"
html_static_path = ["_static", "../.cache/docs"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


class Mermaid(SphinxDirective):
    """A diagram, drawn in the browser by _static/diagrams.js."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the text of the diagram, and make the page load what draws it."""
        self.env.metadata[self.env.docname]["diagrams"] = True
        text = html.escape("\n".join(self.content))
        return [nodes.raw("", f'<pre class="mermaid">{text}</pre>', format="html")]


def leave_the_site(_app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to other files of the repository into downloads, to directories into text.

    Pictures stay.
    """
    here = (DOCS / page).parent

    def there(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        path = (here / target).resolve()
        if path.is_relative_to(DOCS) and path.suffix == ".md":
            return link[0]
        return text if path.is_dir() else f"[{text}](path:{target})"

    source[0] = re.sub(r"(?<!!)\[([^]]+)\]\(((?:\w|\.)[\w./-]*(?:#[\w-]*)?)\)", there, source[0])


def draw_diagrams(
    app: Sphinx, page: str, _template: str, _context: dict[str, object], _tree: nodes.document
) -> None:
    """Load mermaid on the pages that have diagrams."""
    if app.env.metadata[page].get("diagrams"):
        (mermaid,) = (DOCS.parent / ".cache" / "docs").glob("mermaid-*.min.js")
        app.add_js_file(mermaid.name)
        app.add_js_file("diagrams.js")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.add_directive("mermaid", Mermaid)
    app.connect("source-read", leave_the_site)
    app.connect("html-page-context", draw_diagrams)
