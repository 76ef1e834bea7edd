"""Write the parts of docs/reference that the program knows itself, or compare them with it.

A part stands between ``<!-- NAME: written by tools/reference.py -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.cli.main import make_parser
from flowstream.config.run import OPTIONS
from flowstream.config.source import RELOADABLE
from flowstream.kafka.properties import PROPERTIES
from flowstream.metrics.names import METRICS
from tools.commands import commands_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_DOCS: Final = Path("docs")
_PART: Final = re.compile(
    r"(<!-- ([\w-]+): written by tools/reference\.py -->\n).*?(<!-- end -->)", re.DOTALL
)


def commands() -> str:
    """Every command: what it is for, its arguments, examples and notes, as its help has them."""
    return "\n\n".join(_command(parser) for parser in commands_of(make_parser()).values())


def options() -> str:
    """The keys of a configuration file."""
    rows = [
        (
            f"`{option.name}`",
            option.allowed,
            _default(option.default),
            "yes" if field in RELOADABLE else "",
            option.description,
        )
        for field, option in OPTIONS.items()
    ]
    return _table(("key", "takes", "default", "reload", "meaning"), rows)


def properties() -> str:
    """The properties of Kafka clients."""
    rows = [(f"`{each.name}`", each.allowed, each.meaning) for each in PROPERTIES.values()]
    return _table(("property", "takes", "meaning"), rows)


def metrics() -> str:
    """The metrics of an agent."""
    rows = [
        (
            f"`{each.name}`",
            each.kind,
            each.unit,
            ", ".join(map("`{}`".format, each.labels)),
            each.help,
        )
        for each in METRICS.values()
    ]
    return _table(("metric", "type", "unit", "labels", "meaning"), rows)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands,
    "options": options,
    "properties": properties,
    "metrics": metrics,
}


def _command(parser: argparse.ArgumentParser) -> str:
    actions = [each for each in parser._actions if each.dest != "help"]  # noqa: SLF001
    parts = [f"## {parser.prog}", parser.description or ""]
    if actions:
        rows = [_row(action) for action in actions]
        parts.append(_table(("argument", "default", "meaning"), rows))
    parts += _notes(parser.epilog or "")
    return "\n\n".join(parts)


def _row(action: argparse.Action) -> tuple[str, str, str]:
    """Return the cells of an argument: how it is written, its default, its meaning."""
    value = "" if action.nargs == 0 else str(action.metavar or action.dest)
    if not action.option_strings:
        spelled = f"`{value}`"
    else:
        spelled = ", ".join(f"`{text} {value}`".replace(" `", "`") for text in _spelled(action))
    meaning = (action.help or "").replace("%%", "%")
    said = re.search(r" \(default (.*)\)$", meaning)
    if said is None:
        return spelled, "", meaning
    given = said[1] if " " in said[1] else f"`{said[1]}`"
    return spelled, given, meaning.removesuffix(said[0])


def _spelled(action: argparse.Action) -> Sequence[str]:
    return sorted(action.option_strings, key=len, reverse=True)


def _notes(epilog: str) -> Iterator[str]:
    """Return the examples of a command as shell, and the rest of its help as text."""
    text = epilog.strip("\n")
    if text.startswith("examples:\n"):
        examples, _, text = text.removeprefix("examples:\n").partition("\n\n")
        yield f"```sh\n{_shell(examples)}\n```"
    if text:
        yield f"```text\n{text}\n```"


def _shell(examples: str) -> str:
    """Put what explains a command, indented below it in the help, above it as a comment."""
    lines: list[str] = []
    for line in examples.splitlines():
        if line.startswith("      "):
            lines.insert(-1, f"# {line.strip()}")
        else:
            lines.append(line.strip())
    return "\n".join(lines)


def _default(value: object) -> str:
    return "" if value in (None, False, ()) else f"`{value}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_cell, line))} |" for line in (head, *rows)]
    return "\n".join((lines[0], "|---" * len(head) + "|", *lines[1:]))


def _cell(text: str) -> str:
    """Escape what ends a cell, and outside of code what Markdown would read as markup."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", r"\|"))
    return "".join(
        part if part.startswith("`") else re.sub(r"([*<])", r"\\\1", part) for part in parts
    )


def written(text: str) -> str:
    """Return a page with its parts written anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def pages(docs: Path) -> list[Path]:
    """Return the pages below ``docs`` that have parts."""
    return [path for path in sorted(docs.rglob("*.md")) if _PART.search(path.read_text("utf-8"))]


def outdated(docs: Path) -> list[Path]:
    """Return the pages that differ from the program."""
    return [path for path in pages(docs) if (text := path.read_text("utf-8")) != written(text)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    found = outdated(_DOCS)
    if parser.parse_args(arguments).check:
        for page in found:
            print(f"{page} is out of date: run python -m tools.reference", file=sys.stderr)
        return bool(found)
    for page in found:
        page.write_text(written(page.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
