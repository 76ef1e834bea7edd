"""Where an expression is wrong: libpcap says what, and not where."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from flowstream.filtering import libpcap
from flowstream.filtering.libpcap import NotCompiledError
from flowstream.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX: Final = "can't parse filter expression: "
_SYNTAX: Final = "syntax error"
_TOKEN: Final = re.compile(r"\\?[\w.:/-]+|<<|>>|[<>=!]=|&&|\|\||\S")
_QUOTED: Final = re.compile(r"['\"]([^'\"]+)['\"]")
_BEYOND_LIMIT: Final = re.compile(r" (\d+) (?:>|greater)")
_SEARCH_S: Final = 2.0
"""Time for the search: names are looked up for each attempt."""
_WIDTH: Final = 72
"""Characters of an expression that are shown, around the place."""
_CONTINUATIONS: Final = (
    "", "ip", "1.2.3.4", "host 1.2.3.4", "::1", "80", "1-2", "10.0.0.0/8", "1:2:3:4:5:6",
    "host 1:2:3:4:5:6", "proto 6", "dst host 1.2.3.4", "dst port 80", "255.0.0.0", "= 1",
    "1 = 1", "1", "[0] = 1", "arp",
)  # fmt: skip
"""What may follow the beginning of an expression."""
_IN_BRACKETS: Final = ("] = 1", "0] = 1", ":1] = 1", "1] = 1")


def pointed(expression: str, words: str) -> str:
    """Return libpcap's words with the expression and a caret below the place, if it is found."""
    words = printable(words.removeprefix(_PREFIX))
    shown = "".join(each if each.isprintable() else " " for each in expression)
    place = _place(shown, words)
    begin = max(0, (place or 0) - _WIDTH // 2)
    dots = "…" * (begin > 0)
    line = f"{dots}{shown[begin : begin + _WIDTH]}{'…' * (begin + _WIDTH < len(shown))}"
    caret = "" if place is None else f"\n  {' ' * (len(dots) + place - begin)}^"
    return f"{words}\n  {line}{caret}"


def _place(expression: str, words: str) -> int | None:
    """Index of the word that is wrong; that of the end when something is missing there."""
    tokens = [*_TOKEN.finditer(expression)]
    for word in _named(words):
        for token in tokens:
            if token[0] == word:
                return token.start()
    deadline = time.monotonic() + _SEARCH_S
    for count in range(len(tokens), -1, -1):
        if time.monotonic() >= deadline:
            return None
        beginning = expression[: tokens[count - 1].end()] if count else ""
        if _may_begin(beginning, deadline):
            if count < len(tokens):
                return tokens[count].start()
            return len(expression.rstrip()) if words.startswith(_SYNTAX) else None
    return None


def _named(words: str) -> Iterator[str]:
    """Words of a message that may be of the expression, the likeliest first."""
    yield from _QUOTED.findall(words)
    if limit := _BEYOND_LIMIT.search(words):
        yield limit[1]


def _may_begin(beginning: str, deadline: float) -> bool:
    """Whether an expression that begins so can be right."""
    return any(
        _compiles(f"{beginning} {rest}")
        for rest in _rests(beginning)
        if time.monotonic() < deadline
    )


def _rests(beginning: str) -> Iterator[str]:
    depth = max(0, beginning.count("(") - beginning.count(")"))
    if beginning.count("[") > beginning.count("]"):
        for rest in _IN_BRACKETS:
            yield f"{rest}{')' * depth}"
        return
    for rest in _CONTINUATIONS:
        yield f"{rest}{')' * depth}"
    if depth:
        for rest in ("", "1"):
            yield f"{rest}{')' * depth} = 1"


def _compiles(expression: str) -> bool:
    try:
        libpcap.compiled(expression, libpcap.ETHERNET, optimize=False)
    except NotCompiledError:
        return False
    return True
