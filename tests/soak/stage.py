"""Where a long run takes place: an agent on a veth pair."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from faults.scene import Scene
from support.net import namespace, veth_pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from broker import Broker
    from broker.cluster import Cluster


@contextmanager
def stage(cluster: AbstractContextManager[Broker | Cluster]) -> Iterator[Scene]:
    """Make a scene of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="flowstream-soak-") as name,
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as wire,
        cluster as running,
    ):
        place = Path(name)
        place.chmod(0o755)
        scene = Scene(running, wire, place)
        try:
            yield scene
        finally:
            scene.close()
