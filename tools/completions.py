"""Writes completions for bash, zsh and fish from the parser of the command line.

    python -m tools.completions build/completions    # make man

The files have the names under which the shells look for them: flowstream, _flowstream and
flowstream.fish.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import shtab

from flowstream.cli.main import make_parser
from flowstream.config.run import OPTIONS
from tools.commands import commands_of, groups_of

if TYPE_CHECKING:
    import argparse

_FILES: Final = {"bash": "flowstream", "zsh": "_flowstream", "fish": "flowstream.fish"}
_INTERFACES: Final = {
    "bash": "_flowstream_interfaces",
    "zsh": "_net_interfaces",
    "fish": "(command ls /sys/class/net)",
}
# Names may have $ and `: compgen -W would run what stands in them.
_BASH_INTERFACES: Final = """\
_flowstream_interfaces() {
  local path
  for path in /sys/class/net/"$1"*; do
    [[ -e $path ]] && printf '%q\\n' "${path##*/}"
  done
}
"""
_PREAMBLES: Final = {"bash": _BASH_INTERFACES}
# By metavar, or by destination.
_COMPLETED: Final[dict[str, Any]] = {
    "DIR": shtab.DIRECTORY,
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "PATTERN": _INTERFACES,
    "url": shtab.FILE,  # a recording
}


def completions() -> dict[str, str]:
    """Return the text of each file by its name."""
    parser = make_parser()
    for each in (parser, *commands_of(parser).values()):
        for _, actions in groups_of(each):
            for action in actions:
                _describe(action)
    return {
        file: shtab.complete(parser, shell, preamble=_PREAMBLES.get(shell, ""))
        for shell, file in _FILES.items()
    }


def _describe(action: argparse.Action) -> None:
    """Give an action what shells complete, and help that fits on a line."""
    action.help = (action.help or "").split(";")[0]
    option = OPTIONS.get(action.dest)
    if action.choices is None and option and get_origin(option.type.__origin__) is Literal:
        action.choices = get_args(option.type.__origin__)
    if by := _COMPLETED.get(str(action.metavar)) or _COMPLETED.get(action.dest):
        action.complete = by  # type: ignore[attr-defined]


def main() -> None:
    """Write every file into the directory that the command line names."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in completions().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
