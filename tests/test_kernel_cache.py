"""Compiled objects on disk: root takes none that another user can have put there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support.users import open_to_all

import flowstream
from flowstream.errors import CompileError
from flowstream.host.privileges import find_user
from flowstream.kernel import cache
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import object as kernel_object

NOBODY = find_user("nobody")
DIGEST = "d" * 64
OBJECT = msgspec.structs.replace(kernel_object.embedded("counter"), source_digest=DIGEST)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(cache, "SYSTEM", tmp_path / "cache")
    return cache.SYSTEM


def stored(place: Path) -> Path:
    cache.store(OBJECT)
    (file,) = place.iterdir()
    return file


def load() -> kernel_object.KernelObject | None:
    return cache.load("counter", DIGEST)


def test_an_object_is_kept(place):
    assert load() is None
    file = stored(place)
    assert load() == OBJECT
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert cache.load("counter", "e" * 64) is None


def test_root_uses_the_systems_cache_whatever_the_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/somebody")
    assert cache._place() == Path("/var/cache/flowstream")


@pytest.mark.parametrize("change", ["owner", "group", "others", "link", "pipe", "directory"])
def test_a_planted_file_is_not_read(place, change):
    file = stored(place)
    match change:
        case "owner":
            os.chown(file, *NOBODY)
        case "group":
            file.chmod(0o664)
        case "others":
            file.chmod(0o646)
        case "link":
            file.rename(place.parent / "elsewhere")
            file.symlink_to(place.parent / "elsewhere")
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "directory":
            file.unlink()
            file.mkdir()
    assert load() is None


@pytest.mark.parametrize("change", ["owner", "group", "others", "link", "file"])
def test_a_cache_that_others_can_write_to_is_not_used(place, change):
    stored(place)
    match change:
        case "owner":
            os.chown(place, *NOBODY)
        case "group":
            place.chmod(0o775)
        case "others":
            place.chmod(0o777)
        case "link":
            place.rename(place.parent / "elsewhere")
            place.symlink_to(place.parent / "elsewhere")
        case "file":
            shutil.rmtree(place)
            place.write_text("")
    assert load() is None
    before = sorted(place.parent.rglob("*"))
    cache.store(msgspec.structs.replace(OBJECT, source_digest="e" * 64))
    assert sorted(place.parent.rglob("*")) == before


def test_a_planted_link_is_replaced_and_not_written_through(place, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file = stored(place)
    file.unlink()
    file.symlink_to(victim)
    cache.store(OBJECT)
    assert victim.read_text() == "precious"
    assert not file.is_symlink()
    assert load() == OBJECT


@pytest.mark.parametrize("at", [3, 70, -3])
def test_an_object_that_is_damaged_is_not_taken(place, at):
    file = stored(place)
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert load() is None


def test_an_object_under_anothers_name_is_not_taken(place):
    file = stored(place)
    file.rename(file.with_name(file.name.replace("counter", "flow")))
    assert cache.load("flow", DIGEST) is None


@pytest.mark.parametrize("theirs", [True, False])
def test_another_user_has_a_cache_of_its_own(tmp_path, theirs):
    open_to_all(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "flowstream").mkdir()
    if theirs:
        os.chown(home / "flowstream", *NOBODY)
    else:
        (home / "flowstream").chmod(0o777)
    code = (
        "import os, sys; from flowstream.kernel import cache, object as o;"
        "obj = o.embedded('counter');"
        "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3);"
        "cache.store(obj); print(cache.load(obj.name, obj.source_digest) == obj)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{theirs}\n", "")


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "bpf"
    shutil.copytree(bpf_compile.SOURCE_DIR, copy)
    (copy / "counter.c").write_text("changed")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(bpf_compile, "SOURCE_DIR", copy)
    return copy


@pytest.mark.parametrize("change", ["owner", "mode", "header", "directory", "link"])
def test_sources_that_others_can_change_are_not_compiled(place, sources, change):
    source = sources / "counter.c"
    match change:
        case "owner":
            os.chown(source, *NOBODY)
        case "mode":
            source.chmod(0o666)
        case "header":
            source = sources / "include" / "include" / "linux" / "types.h"
            source.chmod(0o666)
        case "directory":
            source = sources
            source.chmod(0o777)
        case "link":
            source.rename(sources.parent / "elsewhere")
            source.symlink_to(sources.parent / "elsewhere")
    with pytest.raises(CompileError) as caught:
        bpf_compile.obtain("counter")
    assert str(caught.value).startswith(
        f"{source} can be changed by users other than the owner of "
    )


def test_a_folder_called_bpf_beside_an_installed_package_is_not_its_source(tmp_path):
    """As another package's in site-packages is."""
    shutil.copytree(Path(flowstream.__file__).parent, tmp_path / "flowstream")
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "flow.c").write_text("int xdp_flow(struct xdp_md *ctx) {return 1;}")
    code = (
        "from flowstream.kernel import compile, object; print(compile.SOURCE_DIR);"
        "print(compile.obtain('flow') == object.embedded('flow'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path}/bpf\nTrue\n", "")
