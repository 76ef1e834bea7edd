"""Writes the manual pages from the command line's own help.

    python -m tools.man_pages build/man    # make man

One page for flowstream and one for each command: flowstream.1, flowstream-run.1 and so on.
Names, options and examples are those that --help prints, so they are always the program's.
See man(7) for the macros.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import flowstream
from flowstream.cli.main import make_parser
from tools.changelog import released
from tools.commands import commands_of, groups_of, summaries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_SECTIONS: Final = {"examples:": "EXAMPLES", "exit status:": "EXIT STATUS"}
"""Sections of a page by the line that opens them in the help's epilog; the others are NOTES."""
# Characters that troff would print as typographic ones, or take for its own.
_ESCAPES: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)


def pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    parser = make_parser()
    commands = commands_of(parser)
    about = summaries(parser)
    summary = (parser.description or "").rstrip(".")
    found = {"flowstream.1": _page(parser, summary[0].lower() + summary[1:], about)}
    for name, each in commands.items():
        found[f"flowstream-{name}.1"] = _page(each, about[name], {})
    return found


def _page(parser: argparse.ArgumentParser, summary: str, commands: dict[str, str]) -> str:
    name = parser.prog.replace(" ", "-")
    sections = _sections(parser.epilog or "")
    others = [f"flowstream-{each}" for each in commands] or ["flowstream"]
    source = f"flowstream {flowstream.__version__}"
    lines = [
        f'.TH {_text(name.upper())} 1 {released()} "{source}" "User Commands"',
        ".SH NAME",
        rf"{_text(name)} \- {_text(summary)}",
        ".SH SYNOPSIS",
        _synopsis(parser, commands),
        ".SH DESCRIPTION",
        _line(parser.description or ""),
    ]
    if commands:
        lines.append(".SH COMMANDS")
    for each, about in commands.items():
        lines += [".TP", rf"\fBflowstream\-{_text(each)}\fR(1)", _line(about)]
    lines += _options(parser)
    for title, section in sections.items():
        lines += [f".SH {title}", *section]
    lines += [".SH SEE ALSO", ", ".join(rf"\fB{_text(each)}\fR(1)" for each in others)]
    return "\n".join(lines) + "\n"


def _synopsis(parser: argparse.ArgumentParser, commands: dict[str, str]) -> str:
    words = [rf"\fB{_text(parser.prog)}\fR", r"[\fIOPTION\fR]..."]
    if commands:
        words.append(r"\fICOMMAND\fR")
    required = [
        action for _, actions in groups_of(parser) for action in actions if action.required
    ]
    for action in sorted(required, key=lambda action: not action.option_strings):
        several = "..." if action.nargs == "+" else ""
        words.append(f"{_names(action)}{several}")
    return " ".join(words)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Arguments first, as argparse has them; its first two groups need no title."""
    yield ".SH OPTIONS"
    for number, (title, actions) in enumerate(groups_of(parser)):
        if number and title != "options":
            yield f".SS {_text(title.capitalize())}"
        for action in actions:
            yield ".TP"
            yield _names(action)
            yield _line((action.help or "") % {"prog": parser.prog})


def _names(action: argparse.Action) -> str:
    """Return how an option or argument is written, each spelling with its value."""
    value = rf"\fI{_text(str(action.metavar or action.dest.upper()))}\fR"
    if not action.option_strings:
        return value
    behind = "" if action.nargs == 0 else f" {value}"
    return ", ".join(rf"\fB{_text(each)}\fR{behind}" for each in action.option_strings)


def _sections(epilog: str) -> dict[str, list[str]]:
    """Return the epilog by section; indented lines keep their breaks."""
    found: dict[str, list[str]] = {}
    for block in epilog.strip("\n").split("\n\n"):
        lines = block.splitlines()
        if title := _SECTIONS.get(lines[0]):
            found[title] = [".EX", *(_line(line.removeprefix("  ")) for line in lines[1:]), ".EE"]
            continue
        notes = found.setdefault("NOTES", [])
        notes += [".PP"] if notes else []
        literal = False
        for line in [*lines, ""]:
            if line.startswith("  ") != literal:
                literal = not literal
                notes += [".RS", ".EX"] if literal else [".EE", ".RE"]
            notes += [_line(line.removeprefix("  "))] if line else []
    return found


def _line(text: str) -> str:
    """Return text as one line, which troff must not take for a request."""
    return rf"\&{_text(text)}" if text.startswith(".") else _text(text)


def _text(text: str) -> str:
    return text.translate(_ESCAPES)


def main() -> None:
    """Write every page into the directory that the command line names."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
