"""Builds the Debian package from the wheel and the locked libraries.

    python -m tools.deb build/release/flowstream-VERSION-py3-none-any.whl build/deb    # make deb

The package has libraries of its own, compiled for one version of Python: that which runs this
tool, and which the package depends on. So its installation downloads nothing but Debian's own
packages. The same sources give the same octets: everything has the time of the release.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import flowstream
from tools import completions, configuration, man_pages
from tools.changelog import released_s

_TOP: Final = Path(__file__).parent.parent
_PACKAGING: Final = _TOP / "packaging"
_LIBRARIES: Final = "usr/lib/flowstream"
_SCRIPTS: Final = ("postinst", "prerm", "postrm")
_COMPLETIONS: Final = {
    "flowstream": "usr/share/bash-completion/completions",
    "_flowstream": "usr/share/zsh/vendor-completions",
    "flowstream.fish": "usr/share/fish/vendor_completions.d",
}
"""Where each shell looks for the completions of a package, by the name of the file."""


def build(wheel: Path, directory: Path) -> Path:
    """Build the package into a directory; return its file."""
    os.umask(0o022)
    time_s = released_s()
    machine = _output("dpkg", "--print-architecture")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    target = directory / f"flowstream_{flowstream.__version__}_{machine}.deb"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        root.mkdir()
        _install_libraries(root / _LIBRARIES, wheel)
        _install_files(root, time_s)
        _write_control(root, machine)
        _normalise(root, time_s)
        os.environ["SOURCE_DATE_EPOCH"] = str(time_s)
        command = ("dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build")
        _output(*command, str(root), str(target))
    return target


def _install_libraries(place: Path, wheel: Path) -> None:
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    into = ("--no-deps", "--no-compile", "--only-binary", ":all:", "--target", str(place))
    _output(*pip, *into, "--require-hashes", "-r", str(_TOP / "requirements-deb.txt"))
    _output(*pip, *into, "--no-index", str(wheel))
    shutil.rmtree(place / "bin")
    for tests in [each for each in place.rglob("tests") if each.is_dir()]:
        shutil.rmtree(tests)
    # The path of the wheel on this machine.
    for each in place.glob("*.dist-info/direct_url.json"):
        each.unlink()
    forget_removed(place)


def forget_removed(place: Path) -> None:
    """Take what was removed out of the lists of installed files.

    They have digests, also of what named a path of this machine.
    """
    for record in place.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if (place / next(csv.reader([line]))[0]).exists()]
        record.write_text("".join(kept), encoding="utf-8")


def _install_files(root: Path, time_s: int) -> None:
    debian, share = _PACKAGING / "debian", root / "usr/share"
    documents = share / "doc/flowstream"
    _copy(debian / "flowstream", root / "usr/bin/flowstream")
    _copy(debian / "lintian-overrides", share / "lintian/overrides/flowstream")
    _copy(debian / "copyright", documents / "copyright")
    _copy(_TOP / "README.md", documents / "README.md")
    for unit in (_PACKAGING / "systemd").iterdir():
        _copy(unit, root / "lib/systemd/system" / unit.name)
    _write(root / "etc/flowstream/flowstream.toml", configuration.text())
    for name, text in man_pages.pages().items():
        _write_packed(share / "man/man1" / f"{name}.gz", text)
    for name, text in completions.completions().items():
        _write(root / _COMPLETIONS[name] / name, text)
    _write_packed(documents / "changelog.gz", _changelog(time_s))
    changes = (_TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    _write_packed(documents / "CHANGELOG.md.gz", changes)


def _write_control(root: Path, machine: str) -> None:
    control, debian = root / "DEBIAN", _PACKAGING / "debian"
    files = sorted(each for each in root.rglob("*") if each.is_file())
    octets = sum(each.stat().st_size for each in files)
    major, minor = sys.version_info[:2]
    values = {
        "version": flowstream.__version__,
        "machine": machine,
        "size": str(-(-octets // 1024)),
        "python": f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})",
    }
    _write(control / "control", (debian / "control").read_text(encoding="utf-8").format(**values))
    _write(control / "conffiles", "/etc/flowstream/flowstream.toml\n")
    digests = [
        f"{hashlib.md5(each.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{each.relative_to(root)}\n"
        for each in files
    ]
    _write(control / "md5sums", "".join(digests))
    for script in _SCRIPTS:
        _copy(debian / script, control / script)


def _changelog(time_s: int) -> str:
    """Return Debian's form of the change log, for this version alone."""
    date = dt.datetime.fromtimestamp(time_s, dt.UTC)
    return (
        f"flowstream ({flowstream.__version__}) unstable; urgency=medium\n\n"
        "  * See CHANGELOG.md.gz beside this file.\n\n"
        f" -- The flowstream developers <flowstream@localhost>  {date:%a, %d %b %Y %T} +0000\n"
    )


def _normalise(root: Path, time_s: int) -> None:
    """Give everything the usual modes, and the time."""
    for each in (root, *root.rglob("*")):
        executable = each.is_dir() or each.parent == root / "usr/bin" or each.name in _SCRIPTS
        each.chmod(0o755 if executable else 0o644)
        os.utime(each, (time_s, time_s))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def _write_packed(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def main() -> None:
    """Build from the wheel into the directory that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.deb")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    print(build(given.wheel, given.directory))


if __name__ == "__main__":
    main()
