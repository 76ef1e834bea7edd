"""Builds a release: source distribution, wheel, software bill of materials, and their digests.

    python -m tools.release --deb build/release    # make release

With --deb the Debian package, too, for which pip fetches the locked libraries.

The same sources give the same octets wherever, whenever and by whom they are built: times are
the release's date, owners and modes are fixed, and files are sorted. The wheel is built from the
source distribution alone.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

import flowstream
from tools import deb, sbom
from tools.changelog import released_s

_TOP: Final = Path(__file__).parent.parent
_NAME: Final = f"flowstream-{flowstream.__version__}"
_EGG_INFO: Final = "flowstream.egg-info"


def build(directory: Path, *, with_deb: bool) -> None:
    """Build everything into a directory, which is emptied before."""
    os.umask(0o022)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    time_s = released_s()
    os.environ |= {"SOURCE_DATE_EPOCH": str(time_s), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _copy_sources(place / "sources")
        _backend("build_sdist", place / "sources", place)
        sdist = directory / f"{_NAME}.tar.gz"
        _normalise(place / sdist.name, sdist, time_s)
        subprocess.run(["tar", "-xzf", sdist, "-C", place], check=True)
        _backend("build_wheel", place / _NAME, directory)
        if with_deb:
            wheel = directory / f"{_NAME}-py3-none-any.whl"
            shutil.move(deb.build(wheel, place / "deb"), directory)
    text = sbom.encode(sbom.python_libraries(_TOP / "requirements.txt"))
    (directory / f"{_NAME}.cdx.json").write_text(text, encoding="utf-8")
    _write_digests(directory)


def _copy_sources(target: Path) -> None:
    for name in sources():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_TOP / name, copy)
        copy.chmod(0o755 if os.access(_TOP / name, os.X_OK) else 0o644)


def sources() -> list[str]:
    """Return the files that git knows; of an unpacked source distribution, those it came with."""
    if (_TOP / ".git").exists():
        command = ["git", "-C", str(_TOP), "ls-files", "-z"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return listed.split("\0")[:-1]
    names = (_TOP / _EGG_INFO / "SOURCES.txt").read_text(encoding="utf-8").splitlines()
    return [name for name in names if name != "setup.cfg" and not name.startswith(_EGG_INFO)]


def _backend(hook: str, sources: Path, target: Path) -> None:
    """Call a hook of the build backend (PEP 517), in a process of its own as it asks for."""
    code = f"import setuptools.build_meta as backend; backend.{hook}({str(target)!r})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=sources, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if result.returncode:
        raise SystemExit(f"{hook}:\n{result.stdout}")


def _normalise(source: Path, target: Path, time_s: int) -> None:
    """Write a tar.gz anew: sorted, of one time, with root's files and the two usual modes."""
    with (
        tarfile.open(source) as old,
        target.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=time_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            member.mtime, member.pax_headers = time_s, {}
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)


def _write_digests(directory: Path) -> None:
    """Write SHA256SUMS, for sha256sum --check."""
    lines = [
        f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n"
        for each in sorted(directory.iterdir())
    ]
    (directory / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Build into the directory that the command line names, and print what is there."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--deb", action="store_true")
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    directory = given.directory.resolve()
    build(directory, with_deb=given.deb)
    print((directory / "SHA256SUMS").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
