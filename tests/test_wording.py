"""Counts with their nouns, and suggestions for mistyped names."""

from __future__ import annotations

import pytest

from flowstream.wording import counted, did_you_mean, listed, printable, ranges


@pytest.mark.parametrize(
    ("number", "says"),
    [(0, "0 packets"), (1, "1 packet"), (2, "2 packets"), (1_009, "1,009 packets")],
)
def test_a_noun_agrees_with_its_number(number, says):
    assert counted(number, "packet") == says


def test_differences_have_a_sign_and_other_words_a_plural():
    assert counted(-1, "octet", form="+,") == "-1 octet"
    assert counted(1_009, "octet", form="+,") == "+1,009 octets"
    words = ("record is", "records are")
    assert [counted(n, *words) for n in (1, 2)] == ["1 record is", "2 records are"]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [([], ""), ([3], "3"), ([0, 1], "0-1"), ([0, 2, 5, 6, 7, 9], "0, 2, 5-7, 9")],
)
def test_numbers_in_a_row_are_a_range(numbers, says):
    assert ranges(numbers) == says


def test_a_list_is_cut_after_so_many_names():
    assert listed(["a"], 2) == "a"
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d", "e"], 2) == "a, b and 3 more"


def test_the_most_similar_name_is_suggested_or_none():
    known = ("audit", "cat", "replay")
    assert did_you_mean("adit", known) == "; did you mean audit?"
    assert did_you_mean("xyz", known) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("eth0: 5 µs", "eth0: 5 µs"),
        ("\x1b]0;title\a", r"\x1b]0;title\x07"),
        ("a\nb", r"a\nb"),
        # Octets that are not UTF-8, as in names of files and interfaces.
        ("\udcff", r"\udcff"),
    ],
)
def test_unprintable_characters_are_escaped(text, says):
    assert printable(text) == says
