"""The manual pages: one for each command, clean for man, and with what --help says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowstream.cli.main import make_parser
from tools.changelog import released
from tools.commands import commands_of
from tools.man_pages import pages

PAGES = pages()
PARSERS = {"flowstream.1": make_parser()} | {
    f"flowstream-{name}.1": parser for name, parser in commands_of(make_parser()).items()
}
TOP = Path(__file__).parent.parent


def shown(page: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    file = tmp_path / page
    file.write_text(PAGES[page], encoding="utf-8")
    command = ["man", "--warnings", "-E", "UTF-8", "--nh", "--nj", "-l", file]
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=30
    )


def test_each_command_has_a_page():
    assert set(PAGES) == set(PARSERS)
    assert {"flowstream.1", "flowstream-run.1", "flowstream-audit.1"} <= set(PAGES)


@pytest.mark.parametrize("page", PARSERS)
def test_man_shows_a_page_without_a_warning(page, tmp_path):
    result = shown(page, tmp_path)
    assert result.stderr == ""
    name = page.removesuffix(".1")
    lines = result.stdout.splitlines()
    assert lines[0].split() == [f"{name.upper()}(1)", "User", "Commands", f"{name.upper()}(1)"]
    assert lines[2] == "NAME"
    assert lines[3].startswith(f"       {name} - ")


@pytest.mark.parametrize(("page", "parser"), PARSERS.items())
def test_a_page_has_the_words_of_the_help(page, parser, tmp_path):
    have = " ".join(shown(page, tmp_path).stdout.split())
    options = [option for action in parser._actions for option in action.option_strings]
    helps = [action.help % {"prog": parser.prog} for action in parser._actions if action.help]
    titles = ("examples:", "exit status:")
    notes = [line for line in parser.epilog.splitlines() if line not in titles]
    for text in (parser.description, *options, *helps, *notes):
        assert " ".join(text.split()) in have


def test_characters_stay_those_of_ascii(tmp_path):
    """Quotes, hyphens and tildes of an example can be copied into a shell."""
    text = shown("flowstream-run.1", tmp_path).stdout
    assert "\n       sudo flowstream run -i 'ens*' -i '!ens7' --netns blue" in text


def test_pages_are_dated_by_the_release():
    assert all(f" 1 {released()} " in text.splitlines()[0] for text in PAGES.values())


def test_pages_are_written(tmp_path):
    command = [sys.executable, "-m", "tools.man_pages", tmp_path / "man"]
    subprocess.run(command, cwd=TOP, check=True, timeout=60)
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "man").iterdir()}
    assert written == PAGES
