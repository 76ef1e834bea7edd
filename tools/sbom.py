"""Writes a software bill of materials (CycloneDX, JSON).

    python -m tools.sbom [--dpkg DIRECTORY] requirements.txt >flowstream.cdx.json

It has the locked Python libraries with their digests and, with --dpkg, the Debian packages of a
system, by its directory /var/lib/dpkg. See https://cyclonedx.org/docs/1.6/json/ and, for pkg:deb,
https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import flowstream

_TOP: Final = Path(__file__).parent.parent
_FORMAT: Final = r"${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"


def python_libraries(requirements: Path) -> dict[str, Any]:
    """Return the document of a lock file: the package and the libraries it requires."""
    command = [
        *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements"),
        *("--pyproject", str(_TOP / "pyproject.toml"), "--spec-version", "1.6"),
        *("--output-reproducible", str(requirements)),
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    document: dict[str, Any] = json.loads(made)
    root = document["metadata"]["component"]
    root["version"] = flowstream.__version__
    root["purl"] = f"pkg:pypi/flowstream@{flowstream.__version__}"
    for component in document["components"]:
        del component["description"]  # the line of the lock file
    _depend_on_all(document)
    return document


def add_debian_packages(document: dict[str, Any], admin_directory: Path) -> None:
    """Add the installed packages of a system, by its /var/lib/dpkg."""
    command = ["dpkg-query", f"--admindir={admin_directory}", "--show", "--showformat", _FORMAT]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        status, name, version, architecture = line.split("\t")
        if status != "installed":
            continue
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
        document["components"].append(
            {"bom-ref": purl, "name": name, "version": version, "purl": purl, "type": "library"}
        )
    _depend_on_all(document)


def _depend_on_all(document: dict[str, Any]) -> None:
    """Let the package depend on every component."""
    root = document["metadata"]["component"]["bom-ref"]
    components = sorted(each["bom-ref"] for each in document["components"])
    document["dependencies"] = [
        {"ref": root, "dependsOn": components}, *({"ref": each} for each in components)
    ]  # fmt: skip


def encode(document: dict[str, Any]) -> str:
    """Return the document as text."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Print the document of a lock file and, if asked for, of a system."""
    parser = argparse.ArgumentParser(prog="python -m tools.sbom", description=__doc__)
    parser.add_argument("--dpkg", metavar="DIRECTORY", type=Path)
    parser.add_argument("requirements", type=Path)
    options = parser.parse_args()
    document = python_libraries(options.requirements)
    if options.dpkg:
        add_debian_packages(document, options.dpkg)
    print(encode(document), end="")


if __name__ == "__main__":
    main()
