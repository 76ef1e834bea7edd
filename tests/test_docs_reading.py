"""docs/reading.md: its conditions and its Python are right."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from support.published import Published, publish

from flowstream.reading import Condition, read

TEXT = (Path(__file__).parent.parent / "docs" / "reading.md").read_text(encoding="utf-8")
(CONDITIONS,) = re.findall(r"```\n(dst_port.*?)```", TEXT, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", CONDITIONS.splitlines())
def test_a_condition_is_one(text):
    Condition(text)


def test_the_python_sums(tmp_path):
    asyncio.run(publish(f"file:{tmp_path}/run", "msgpack", Published("msgpack")))
    names: dict = {}
    exec(PYTHON, names)
    octets = names["talkers"](str(tmp_path / "run"))
    assert sum(octets.values()) == sum(record.bytes for record in read(str(tmp_path / "run")))
    assert all(source.startswith("10.") for source in octets)
