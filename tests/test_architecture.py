"""docs/architecture.md shows the rooms as they are: the table, the picture and the types.

Run as a program it prints the lines of the picture.
"""

from __future__ import annotations

import re
import sys

from test_imports import LIBRARIES, PACKAGE, ROOMS

from flowstream.accounting.terms import LOSSES

ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"


def direct() -> set[tuple[str, str]]:
    """Allowed imports but those that also follow by way of another room."""
    return {
        (room, below)
        for room, may_import in ROOMS.items()
        for below in may_import
        if not any(below in ROOMS[between] for between in may_import)
    }


def architecture_table() -> list[list[str]]:
    """Cells of the table of rooms: room, subject, rooms that it may import, libraries."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    _, _, rows = text.partition("| room | subject | may import | owns |\n|---|---|---|---|\n")
    rows, _, _ = rows.partition("\n\n")
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows.splitlines()]


def test_architecture_has_the_same_table():
    table = {
        re.sub(r"`(\w+)(/|\.py)`", r"\1", room): frozenset(re.findall(r"\w+", may_import))
        for room, _, may_import, _ in architecture_table()
    }
    assert table == ROOMS
    assert list(table) == list(ROOMS)


def test_architecture_names_the_owner_of_each_library():
    owners = {
        (re.findall(r"\w+", room)[0], library)
        for room, _, _, owned in architecture_table()
        for library in re.findall(r"\w+", re.sub(r"\(.*?\)|\.\w+", "", owned))
    }
    assert owners == {
        (owner.partition(".")[0], library)
        for library, owning in LIBRARIES.items()
        for owner in owning
    }


def test_architecture_names_rooms_as_they_are_on_disk():
    on_disk = {f"`{room}/`" if (PACKAGE / room).is_dir() else f"`{room}.py`" for room in ROOMS}
    assert {room for room, *_ in architecture_table()} == on_disk


def test_architecture_names_types_that_exist():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    _, _, table = text.partition("| type | where | content |\n")
    rows = re.findall(r"^\| (`.*?) \| `([\w/.]+)`", table.partition("\n\n")[0], re.MULTILINE)
    assert len(rows) > 5
    for names, where in rows:
        place = PACKAGE / where if (PACKAGE / where).exists() else PACKAGE.parent / where
        files = place.rglob("*.py") if place.is_dir() else [place]
        content = "".join(file.read_text(encoding="utf-8") for file in files)
        for name in re.findall(r"`(?:struct )?(\w+)`", names):
            assert re.search(rf"^(?:class |struct )?{name}\b", content, re.MULTILINE), name


def test_architecture_places_every_cause_of_loss():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    _, _, section = text.partition("## Where each loss is counted\n")
    rows = re.findall(r"^\| [^|]+ \| (`.*) \|$", section.partition("\n##")[0], re.MULTILINE)
    assert {cause for row in rows for cause in re.findall(r"`(\w+)`", row)} == LOSSES.keys()


def test_architecture_draws_the_same_picture():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    _, _, rest = text.partition("## Rooms\n")
    picture = re.search(r"```mermaid\nflowchart TD\n(.*?)```", rest, re.DOTALL)
    assert picture
    edges: list[tuple[str, str]] = []
    for line in picture[1].splitlines():
        match = re.fullmatch(r"  (\w+) --> (\w+(?: & \w+)*)", line)
        assert match, line
        edges += [(match[1], below) for below in match[2].split(" & ")]
    assert len(edges) == len(set(edges))
    assert set(edges) == direct()


if __name__ == "__main__":
    for upper in reversed(ROOMS):
        if lower := [room for room in ROOMS if (upper, room) in direct()]:
            sys.stdout.write(f"  {upper} --> {' & '.join(lower)}\n")
