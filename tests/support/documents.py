"""The documents of the repository: their fenced blocks, and the commands in those of a shell."""

from __future__ import annotations

import re
import shlex
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), TOP / "examples" / "README.md"])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block, in the order of its document."""

    document: Path
    language: str
    text: str


def blocks(*languages: str) -> Iterator[Block]:
    """Yield the blocks of these languages in all documents."""
    for document in DOCUMENTS:
        for language, text in _BLOCK.findall(document.read_text(encoding="utf-8")):
            if language in languages:
                yield Block(document, language, text)


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a shell block, each with all its lines, without comments."""
    lines: list[str] = []
    for line in text.splitlines():
        if not lines and line.lstrip().startswith("#"):
            continue
        lines.append(line)
        command = "\n".join(lines)
        if _is_whole(command):
            lines = []
            if command.strip():
                yield command
    assert not lines, lines


def _is_whole(command: str) -> bool:
    if command.rstrip().endswith(("\\", "|", "&&")):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quote is open
        return False
    return True


def arguments_of(command: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of flowstream in a command."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word.strip("|&;<>()"):
            words.append(word)
            continue
        called = list(dropwhile(re.compile(r"sudo$|--preserve-env=|\w+=").match, words))
        if called and re.fullmatch(r"(\S*/)?flowstream", called[0]):
            yield called[1:]
        words = []
