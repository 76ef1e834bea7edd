"""Write schema files, check those on disk, keep those of a release."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import flowstream
from flowstream.schemas import VALUE_FORMATS, files
from tools import layout_programs
from tools.compatibility import breaks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DIRECTORY: Final = Path("schemas")
_RELEASES: Final = "releases"


def write(directory: Path, contents: Mapping[str, str]) -> None:
    """Write files into ``directory``; create it if it is missing."""
    for name, text in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")


def faults(directory: Path) -> list[str]:
    """List outdated files in ``directory`` and incompatibilities with its releases."""
    current = files()
    found = [
        f"{directory / name} is out of date: run make generate"
        for name, text in (current | layout_programs.files()).items()
        if not (path := directory / name).is_file() or path.read_text(encoding="utf-8") != text
    ]
    for release in sorted((directory / _RELEASES).glob("*/")):
        released = {path.name: path.read_text(encoding="utf-8") for path in release.iterdir()}
        found += [
            f"not compatible with release {release.name}: {what}"
            for what in breaks(released, current)
        ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.schema_files", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    for option, what in {
        "--write": "write all files into DIR",
        "--check": "compare the files in DIR with the schemas, and with every release kept there",
        "--release": f"keep the current schemas in DIR/{_RELEASES}/{flowstream.__version__}",
    }.items():
        action.add_argument(
            option, metavar="DIR", type=Path, nargs="?", const=_DIRECTORY, help=what
        )
    options = parser.parse_args(arguments)
    if options.write:
        write(options.write, files() | layout_programs.files())
    elif options.release:
        directory = options.release / _RELEASES / flowstream.__version__
        write(directory, files(VALUE_FORMATS))
    else:
        found = faults(options.check)
        for what in found:
            sys.stderr.write(f"{what}\n")
        return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
