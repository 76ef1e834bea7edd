"""The parsers of the command line, as the manual pages and completions describe them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands by name, in the order of the help."""
    return {
        name: each
        for action in parser._actions  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for name, each in action.choices.items()
    }


def summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return what the help says of each command, by name."""
    return {
        each.dest: each.help or ""
        for action in parser._actions  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for each in action._choices_actions  # noqa: SLF001
    }


def groups_of(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield title and members of each group that is not empty, without commands."""
    for group in parser._action_groups:  # noqa: SLF001
        members = [
            action
            for action in group._group_actions  # noqa: SLF001
            if not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        ]
        if members:
            yield group.title or "", members
