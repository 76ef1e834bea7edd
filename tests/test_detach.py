"""``flowstream detach``: what it says of the runs whose pins it removes."""

from __future__ import annotations

import os
import re

import pytest
from support.agent import delivered, flowstream
from support.books import header
from support.net import namespace, veth_pair
from support.pinned import FIRST_EPOCH, ROOT, PinnedRun
from support.users import AS_NOBODY, open_to_all

from flowstream.accounting import books
from flowstream.accounting.account import Account
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Entry, Facts
from flowstream.accounting.identity import Identity
from flowstream.accounting.terms import NO_FLOW
from flowstream.cli.main import main
from flowstream.kernel.books_map import BooksMap
from flowstream.kernel.generation import BOOKS
from flowstream.kernel.link import mode_of
from flowstream.kernel.pin_directory import PinDirectory

PACKETS = 1_009
RUN = f"run of 2025-11-26 03:00:00 UTC (agent_epoch {FIRST_EPOCH}): "


@pytest.fixture
def place(bpffs):
    return bpffs / "flowstream"


def leave(place, interface, entries=None, *, netns=""):
    """Leave a run that keeps books; it has published 101 packets and lost 103."""
    with PinnedRun(place) as run:
        run.attach(interface)
        with BooksMap.from_fd(run.generation.open(BOOKS)) as kept:
            identity = Identity(run.epoch, bytes(16), "host", bytes(16))
            kept.put(books.HEADER, books.encode(header(identity)))
            account = Account(acknowledged=Amount(101, 101 * 64))
            account.losses["shutdown"] = RecordAmount(1, 103, 103 * 64)
            account.spool = RecordAmount(1, 107, 107 * 64)
            entry = Entry(Facts(interface.name, netns=netns), True, None, account)
            kept.put(run.attachment.key.code, books.encode(entry))
            for key, other in (entries or {}).items():
                kept.put(key.code, books.encode(other))
        return run.attachment


def detach(place, capsys):
    status = main(["detach", str(place)])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_it_says_what_it_has_detached_and_what_was_not_published(place, wire, capsys):
    sender, receiver = wire
    attachment = leave(place, receiver, netns="blue")
    arrived = delivered(sender, receiver, PACKETS)
    missing = arrived - 101 - 103 - 107
    assert detach(place, capsys) == (
        0, f"{RUN}detached from far in blue; {missing} packets had not been published\n", ""
    )  # fmt: skip
    with receiver.namespace.entered():
        assert mode_of(receiver.index, attachment.program.id) is None
    assert not place.exists()


def test_attachments_that_went_before_are_in_the_books_alone(place, wire, capsys):
    sender, receiver = wire
    gone = KernelCounts(
        Amount(1_013, 0),
        dict.fromkeys(NO_FLOW, Amount()) | {"non_ip": Amount(13, 0)},
        {"overflow_lost": RecordAmount(1, 7), "announcement_lost": RecordAmount()},
    )
    entry = Entry(Facts("eth7"), False, gone, Account(acknowledged=Amount(900, 0)))
    leave(place, receiver, {AttachmentKey(77): entry})
    arrived = delivered(sender, receiver, PACKETS)
    missing = arrived - 101 - 103 - 107 + 1_013 - 13 - 7 - 900
    assert detach(place, capsys)[1] == (
        f"{RUN}detached from far; {missing:,} packets had not been published\n"
    )


def test_interfaces_that_are_gone_are_said_to_be(place, capsys):
    with namespace() as here, namespace() as there:
        with veth_pair(here, there) as (sender, receiver):
            leave(place, receiver)
            missing = delivered(sender, receiver, PACKETS) - 101 - 103 - 107
        assert detach(place, capsys)[1] == (
            f"{RUN}detached from far, which is gone; {missing} packets had not been published\n"
        )


def test_books_that_cannot_be_read_leave_a_lower_bound(place, wire, capsys):
    sender, receiver = wire
    with PinnedRun(place) as run:
        run.attach(receiver)
    arrived = delivered(sender, receiver, PACKETS)
    status, out, err = detach(place, capsys)
    assert (status, err) == (0, "")
    assert out == (
        f"{RUN}detached from interface {receiver.index}; {arrived:,} packets or more had not "
        "been published: its books cannot be read: no header\n"
    )


def test_what_stays_is_named_and_is_a_failure(place, capsys):
    with PinDirectory(str(place), ROOT):
        pass
    (place / "notes").mkdir()
    assert detach(place, capsys) == (
        1,
        "nothing was pinned\n",
        f"flowstream: error: {place}/notes: not made by flowstream: not removed\n",
    )


def test_it_refuses_while_an_agent_runs_and_where_there_is_nothing(place, tmp_path, capsys):
    with PinDirectory(str(place), ROOT):
        status, out, err = detach(place, capsys)
    assert (status, out) == (1, "")
    assert err == (
        f"flowstream: error: {place}: another agent uses this directory: stop it first\n"
    )
    assert detach(place / "other", capsys)[2] == (
        f"flowstream: error: {place}/other: No such file or directory\n"
    )
    assert re.search("not bpf: use a directory below /sys/fs/bpf", detach(tmp_path, capsys)[2])


def test_other_users_than_the_owner_and_root_are_refused(bpffs, place):
    open_to_all(bpffs.parent)
    PinDirectory(str(place), ROOT).close()
    refused = flowstream("detach", place, before=AS_NOBODY)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"flowstream: error: {place} belongs to root: run as that user, or as root\n"
    )


def test_the_owner_needs_no_privilege(bpffs, place, wire):
    sender, receiver = wire
    open_to_all(bpffs.parent)
    attachment = leave(place, receiver)
    arrived = delivered(sender, receiver, PACKETS)
    for path in (place, *place.rglob("*")):
        os.chown(path, 65534, 65534)
    done = flowstream("detach", place, before=AS_NOBODY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{RUN}detached from far; {arrived - 101 - 103 - 107} packets had not been published\n"
    )
    assert not place.exists()
    with receiver.namespace.entered():
        assert mode_of(receiver.index, attachment.program.id) is None
