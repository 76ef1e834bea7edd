"""From the table of options in ``flowstream.config.run`` to argparse."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from flowstream.config.run import OPTIONS
from flowstream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Commands(Protocol):
    """What ``ArgumentParser.add_subparsers`` returns, as far as the commands use it."""

    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser:
        """Make the parser of one command."""
        ...


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are ``UsageError`` and whose help keeps its line breaks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage: ``main`` prints one line for every error."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_options(
    parser: argparse.ArgumentParser, fields: Iterable[str], **defaults: object
) -> None:
    """Add the options of these ``RunConfig`` fields; their values stay text, None when absent.

    ``defaults`` are the command's own, shown in the help; applying them is its task.
    """
    for field in fields:
        option = OPTIONS[field]
        default = defaults.get(field, option.default)
        limits = "" if option.allowed in option.description else f"; {option.allowed}"
        shown = "" if default is None else f" (default {default})"
        names = [*(["-i"] if field == "interfaces" else []), f"--{option.name}"]
        description = f"{option.description}{limits}{shown}".replace("%", "%%")
        if option.is_switch:
            parser.add_argument(
                *names, dest=field, action="store_const", const="true", help=option.description
            )
            continue
        parser.add_argument(
            *names,
            dest=field,
            metavar=option.metavar,
            action="append" if field == "interfaces" else "store",
            help=description,
        )
