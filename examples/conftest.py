"""The records that the examples read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.examples import Published
from support.examples import published as publish

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with publish(tmp_path_factory.mktemp("published")) as topics:
        yield topics
