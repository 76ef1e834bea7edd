"""The release: the same octets from a checkout and from its own source distribution."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import flowstream
from tools import sbom
from tools.changelog import released
from tools.release import sources

TOP = Path(__file__).parent.parent
NAME = f"flowstream-{flowstream.__version__}"
WHEEL, SDIST, SBOM = f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz", f"{NAME}.cdx.json"


def build(where: Path, directory: Path, umask: int, zone: str) -> Path:
    command = [sys.executable, "-m", "tools.release", directory]
    # PYTHONPATH: the sources there, not those of this checkout.
    environment = os.environ | {"TZ": zone, "PYTHONPATH": str(where)}
    subprocess.run(command, cwd=where, env=environment, umask=umask, check=True, timeout=300)
    return directory


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return build(TOP, tmp_path_factory.mktemp("release") / "built", 0o077, "Asia/Kolkata")


@pytest.fixture(scope="module")
def unpacked(release, tmp_path_factory):
    """The sources of the release in another directory, with other modes and times."""
    place = tmp_path_factory.mktemp("elsewhere") / "deeper"
    place.mkdir()
    subprocess.run(["tar", "-xzf", release / SDIST, "-C", place], check=True)
    for path in (place / NAME).rglob("*"):
        os.utime(path, (977_616_000, 977_616_000))
        path.chmod(path.stat().st_mode & 0o700)
    return place / NAME


def test_the_source_distribution_gives_the_same_release(release, unpacked, tmp_path):
    again = build(unpacked, tmp_path / "again", 0o002, "America/St_Johns")
    names = {path.name for path in release.iterdir()}
    assert names == {path.name for path in again.iterdir()} == {WHEEL, SDIST, SBOM, "SHA256SUMS"}
    differing = [
        name for name in names if (release / name).read_bytes() != (again / name).read_bytes()
    ]
    assert differing == []


def test_digests_are_those_of_the_files(release):
    lines = (release / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert dict(reversed(line.split("  ")) for line in lines) == {
        name: hashlib.sha256((release / name).read_bytes()).hexdigest()
        for name in (WHEEL, SDIST, SBOM)
    }
    checked = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(checked, cwd=release, check=True, capture_output=True)


def test_the_source_distribution_has_every_source(unpacked):
    assert {"Makefile", "bpf/flow_record.h", "requirements-release.txt"} <= set(sources())
    missing = [name for name in sources() if not (unpacked / name).is_file()]
    assert missing == []
    changed = [
        name for name in sources() if (unpacked / name).read_bytes() != (TOP / name).read_bytes()
    ]
    assert changed == []


def test_times_owners_and_modes_are_fixed(release):
    with zipfile.ZipFile(release / WHEEL) as wheel:
        files = wheel.infolist()
    date = released()
    assert {each.date_time for each in files} == {(date.year, date.month, date.day, 0, 0, 0)}
    assert {each.external_attr >> 16 & 0o777 for each in files} == {0o644, 0o664}
    with tarfile.open(release / SDIST) as sdist:
        members = sdist.getmembers()
    assert {(each.uid, each.gid, each.uname, each.gname) for each in members} == {
        (0, 0, "root", "root")
    }
    assert {each.mode for each in members} == {0o644, 0o755}
    assert [each.name for each in members] == sorted(each.name for each in members)
    executable = {each.name for each in members if each.isfile() and each.mode == 0o755}
    assert f"{NAME}/tools/install-packages.sh" in executable


def test_the_bill_of_materials_has_what_is_locked(release):
    text = (release / SBOM).read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    root = document["metadata"]["component"]
    assert (root["name"], root["version"]) == ("flowstream", flowstream.__version__)
    locked = re.findall(
        r"^([\w.-]+)==(\S+)", (TOP / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    components = document["components"]
    assert sorted((each["name"], each["version"]) for each in components) == sorted(locked)
    assert {"aiokafka", "msgspec", "numpy", "prometheus-client"} <= set(dict(locked))
    (direct,) = [each for each in document["dependencies"] if each["ref"] == root["bom-ref"]]
    assert direct["dependsOn"] == sorted(each["bom-ref"] for each in components)


STATUS = """\
Package: libbpf1
Status: install ok installed
Maintainer: Debian
Architecture: amd64
Version: 1:1.1.2-0+deb12u1
Description: eBPF helper library

Package: removed
Status: deinstall ok config-files
Maintainer: Debian
Architecture: amd64
Version: 2
Description: not there any more

"""


def test_the_bill_of_materials_of_an_image_has_its_packages(tmp_path):
    (tmp_path / "status").write_text(STATUS, encoding="utf-8")
    document = sbom.python_libraries(TOP / "requirements.txt")
    libraries = list(document["components"])
    sbom.add_debian_packages(document, tmp_path)
    (package,) = [each for each in document["components"] if each not in libraries]
    assert (package["name"], package["version"]) == ("libbpf1", "1:1.1.2-0+deb12u1")
    assert package["purl"] == "pkg:deb/debian/libbpf1@1%3A1.1.2-0%2Bdeb12u1?arch=amd64"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.encode(document)) is None


def test_the_version_is_written_once():
    """And in the changelog, which pyproject.toml, documents and manifests do not repeat."""
    files = [TOP / "pyproject.toml", TOP / "Dockerfile", TOP / "Makefile", *TOP.glob("tools/*.py")]
    assert [path.name for path in files if flowstream.__version__ in path.read_text("utf-8")] == []
