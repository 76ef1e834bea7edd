"""Fuzzing: every seed and saved input through its target; and the command itself."""

from __future__ import annotations

import fuzz
import pytest
from fuzz import bounds
from fuzz.minimize import minimize

SAVED = [(name, path) for name in fuzz.TARGETS for path in fuzz.saved(name)]


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_seeds_are_read(name):
    module = fuzz.load(name)
    seeds = module.seeds()
    assert len(set(seeds)) == len(seeds) > 1
    for data in seeds:
        bounds.run(module.target, data)


@pytest.mark.parametrize(
    ("name", "path"), SAVED, ids=[f"{name}-{path.name}" for name, path in SAVED]
)
def test_a_saved_input_is_no_finding(name, path):
    bounds.run(fuzz.load(name).target, path.read_bytes())


def test_the_saved_corpus_is_small():
    assert sum(path.stat().st_size for _, path in SAVED) < 300_000


@pytest.mark.parametrize("place", range(13))
def test_an_input_is_shortened_to_what_matters(place):
    data = bytearray(b"abcdefghijklm")
    data[place] = 0

    def target(data: bytes) -> None:
        assert 0 not in data

    assert minimize(target, bytes(data)) == b"\0"
    assert minimize(target, b"abc") == b"abc"


def test_too_much_time_is_a_finding(monkeypatch):
    monkeypatch.setattr(bounds, "CPU_SECONDS", 0.0)
    with pytest.raises(AssertionError, match=r"^0.0 s for 3 octets$"):
        bounds.run(lambda _: None, b"abc")


def test_too_much_memory_is_a_finding(monkeypatch):
    monkeypatch.setattr(bounds, "MEMORY", 0)
    with pytest.raises(AssertionError, match=r"^0 MiB for 3 octets$"):
        bounds.run(lambda _: None, b"abc")
