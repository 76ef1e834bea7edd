"""An agent warns of interfaces that see the same packets, at the start and when they come."""

from __future__ import annotations

import asyncio

import pytest
from support.following import following, until
from support.net import namespace, veth_pair

pytestmark = pytest.mark.anyio


async def test_an_overlap_is_logged_once_when_it_appears(recording_url):
    with namespace() as here, namespace() as there, veth_pair(here, there):
        there.run("ip", "link", "add", "link", "far", "name", "far-one", "type", "macvlan")

        def change(*words: str) -> asyncio.Future[str]:
            return asyncio.to_thread(there.run, "ip", "link", *words)

        async with following(recording_url, [there.name]) as rig:

            def warned() -> list[tuple[str, str]]:
                return [
                    (each["interface"], each["overlap"])
                    for each in rig.events("interfaces_overlap")
                ]

            text = "all its packets are seen on far too"
            assert warned() == [("far-one", text)]
            await change("add", "link", "far", "name", "far-two", "type", "macvlan")
            await until(lambda: len(warned()) == 2)
            # Nothing new.
            await change("set", "far-two", "up")
            await until(lambda: rig.events("interface_up", "far-two"))
            await change("delete", "far-one")
            await until(lambda: rig.events("interface_gone", "far-one"))
            # Another one of the same name.
            await change("add", "link", "far", "name", "far-one", "type", "macvlan")
            await until(lambda: len(warned()) == 3)
        assert warned() == [(name, text) for name in ("far-one", "far-two", "far-one")]
        assert {each["netns"] for each in rig.events("interfaces_overlap")} == {there.name}


@pytest.mark.parametrize(
    ("direction", "text"),
    [
        ("ingress", "packets that the host forwards through the pair are seen at one end"),
        ("egress", "packets that the host forwards through the pair are seen at one end"),
        ("both", "each receives what the other sends, so every packet is seen at both ends"),
    ],
)
async def test_both_ends_of_a_veth_across_namespaces(recording_url, direction, text):
    with namespace() as here, namespace() as there:
        labels = [here.name, there.name]
        options = {"pattern": "*ar", "direction": direction}
        async with following(recording_url, labels, **options) as rig:
            with veth_pair(here, there):
                await until(lambda: rig.events("interfaces_overlap"))
        (warning,) = rig.events("interfaces_overlap")
        assert (warning["interface"], warning["netns"]) == ("near", here.name)
        assert warning["overlap"].startswith(f"is the other end of far in {there.name}: {text}")
