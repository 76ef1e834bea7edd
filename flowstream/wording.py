"""Texts that messages share: numbers with nouns, ranges, lists, mistyped or unprintable names."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def counted(number: int, singular: str, plural: str = "", *, form: str = ",") -> str:
    """Return "1 packet", "2 packets", "1,009 packets"; ``form`` is the number's format.

    ``plural`` is needed where it is not the singular with an s: ("record is", "records are").
    """
    return f"{number:{form}} {singular if abs(number) == 1 else plural or singular + 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Return "0, 2, 5-7" for these numbers, which ascend."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] == number - 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, each)) for each in found)


def listed(names: Sequence[str], most: int) -> str:
    """Return "a, b and 7 more": at most so many of the names."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the most similar known name, else an empty text."""
    near = get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def printable(text: str) -> str:
    """Return ``text`` with its unprintable characters escaped: it may come from others."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
