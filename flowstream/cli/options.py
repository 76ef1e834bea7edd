"""Adds the options of ``flowstream.config`` to argparse and reads them back."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from flowstream.config.run import OPTIONS
from flowstream.errors import UsageError
from flowstream.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable


class Commands(Protocol):
    """The part of argparse's subparsers that the commands use."""

    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser:
        """Make the parser of one command."""
        ...


class Parser(argparse.ArgumentParser):
    """A parser that raises ``UsageError`` and keeps line breaks in its help."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage: ``main`` prints one line for every error."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; ``UsageError`` where arguments are left: those of a command it refuses itself."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [each for each in unknown if each.startswith("-")]
            hint = (
                did_you_mean(options[0].partition("=")[0], self._options())
                if options
                else _to_be_given(found)
            )
            self.error(f"unrecognized arguments: {' '.join(map(_shown, unknown))}{hint}")
        return found, unknown

    def _options(self) -> list[str]:
        return [text for action in self._actions for text in action.option_strings]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of the choices, with the most similar one."""
        if action.choices is None or value in action.choices:
            return
        hint = did_you_mean(str(value), action.choices) or f"; use {', '.join(action.choices)}"
        raise argparse.ArgumentError(action, f"invalid choice: {_shown(value)!r}{hint}")


def _to_be_given(found: argparse.Namespace) -> str:
    """Remedy for words that belong to no option: how those that they may be meant for are given.

    A word may also be of an expression that the shell took apart.
    """
    for each in ("filter", "where"):
        if getattr(found, each, None):
            return f"; put the whole expression of --{each} into quotes"
    ways = [way for name, way in _WAYS.items() if hasattr(found, name)]
    return f"; give {', '.join(ways)}" if ways else ""


_WAYS: Final = {
    "interfaces": "an interface by -i",
    "filter": "a filter by --filter 'EXPR'",
    "where": "a condition by --where 'CONDITION'",
}
"""How what is often given without an option is given, by destination of the option."""


def _shown(word: str) -> str:
    """Return an argument without the value of a secret."""
    key, equals, _ = word.partition("=")
    return f"{key}=..." if equals and re.search("password|secret", key) else word


def add_options(
    parser: argparse._ActionsContainer, fields: Iterable[str], **defaults: object
) -> None:
    """Add the options of these fields; their values stay text, None when absent.

    ``defaults`` are the command's own, for the help only; ``values`` applies them.
    """
    for field in fields:
        option = OPTIONS[field]
        flags = [*([option.short] if option.short else []), f"--{option.name}"]
        if option.is_switch:
            parser.add_argument(
                *flags, dest=field, action="store_const", const="true", help=option.meaning
            )
            continue
        default = defaults.get(field, option.default)
        shown = "" if default in (None, ()) else f" (default {default})"
        parser.add_argument(
            *flags,
            dest=field,
            metavar=option.metavar,
            action="append" if option.is_list else "store",
            help=f"{option.meaning}{shown}".replace("%", "%%"),
        )


def values(args: argparse.Namespace, fields: Iterable[str], **defaults: object) -> dict[str, Any]:
    """Return checked values of these fields; ``defaults`` precede those of the table."""
    found = {}
    for field in fields:
        option, text = OPTIONS[field], getattr(args, field)
        default = defaults.get(field, option.default)
        found[field] = default if text is None else option.parse(text)
    return found


def single_threaded() -> None:
    """Keep numpy, not imported yet, from starting threads: privileges are given up by thread.

    They would be one per CPU, for linear algebra, which nothing here uses.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
