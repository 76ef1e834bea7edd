"""The wheel: one for every machine, with the kernel's objects of both byte orders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flowstream.kernel.flow import BUILD

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    shutil.copytree(TOP / "flowstream", source / "flowstream")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", place, source], check=True, timeout=300)
    (built,) = place.glob("*.whl")
    return built


def test_it_is_for_every_machine(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/WHEEL")]
        lines = archive.read(name).decode().splitlines()
    assert "Root-Is-Purelib: true" in lines
    assert [each for each in lines if each.startswith("Tag: ")] == ["Tag: py3-none-any"]


def test_it_has_what_the_package_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {each for each in archive.namelist() if each.startswith("flowstream/")}
    package = TOP / "flowstream"
    files = {
        path.relative_to(TOP).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files
    for order in ("little", "big"):
        assert f"flowstream/kernel/objects/{BUILD}.{order}.json" in names
