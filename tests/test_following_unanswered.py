"""A kernel that does not say for a time which links there are, as while it holds its lock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.agent import audited
from support.following import Site, following, until
from support.net import namespace

from flowstream.errors import KernelError
from flowstream.host.links import LinkMonitor

if TYPE_CHECKING:
    from flowstream.host.links import Departure

pytestmark = pytest.mark.anyio


async def test_links_that_cannot_be_read_are_read_later(recording_url, monkeypatch):
    read, silent, unread = LinkMonitor.read, False, 0

    def unanswered(monitor: LinkMonitor) -> list[Departure]:
        nonlocal unread
        if silent:
            unread += 1
            monitor._complete = False
            raise KernelError("asking the kernel by rtnetlink: timed out")
        return read(monitor)

    monkeypatch.setattr(LinkMonitor, "read", unanswered)
    with namespace() as here, namespace() as there:
        site = Site(here, there)
        first = site.create()
        async with following(recording_url, [there.name]) as rig:
            await until(lambda: rig.events("attached", first.receiver.name))
            silent = True
            second = site.create()
            await until(lambda: rig.events("links_not_read"))
            await asyncio.to_thread(first.send)
            # Several attempts are one line.
            attempts = unread
            await until(lambda: unread > attempts)
            silent = False
            await until(lambda: rig.events("attached", second.receiver.name))
            await asyncio.to_thread(second.send)
        (told,) = rig.events("links_not_read")
        assert told["error"] == "asking the kernel by rtnetlink: timed out"
        seen = await asyncio.to_thread(audited, recording_url)
        assert {each["if_index"]: each["seen"]["packets"] for each in seen} == {
            each.index: each.arrived for each in (first, second)
        }
