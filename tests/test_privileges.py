"""Dropping privileges, in a process of its own each time."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest
from support.users import AS_NOBODY

from flowstream.errors import UsageError
from flowstream.host.privileges import User, find_user

NOBODY = pwd.getpwnam("nobody")
PROLOGUE = """
import os, pathlib, sys, threading
from flowstream.host import privileges
from flowstream.errors import FlowstreamError
"""


def run(code: str, *before: str) -> str:
    command = [*before, sys.executable, "-c", PROLOGUE + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_users_are_found_by_name_and_number():
    assert find_user("nobody") == User(NOBODY.pw_uid, NOBODY.pw_gid)
    # A number needs no entry.
    assert find_user("54321") == User(54321, 54321)


@pytest.mark.parametrize("name", ["no-such-user", "-1", "nobody ", "4294967295", "4294967296"])
def test_an_unknown_user(name):
    with pytest.raises(UsageError, match="--user: no user"):
        find_user(name)


def test_no_privilege_is_left_or_can_be_regained():
    code = """
privileges.give_up(privileges.find_user("nobody"))
print(os.getresuid(), os.getresgid(), os.getgroups())
for regain in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        regain()
    except PermissionError:
        print("refused")
status = pathlib.Path("/proc/self/status").read_text()
for line in status.splitlines():
    if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs")):
        print(line)
"""
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    lines = run(code).splitlines()
    assert lines[0] == f"({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) []"
    assert lines[1:4] == ["refused"] * 3
    none = "\t" + "0" * 16
    assert sorted(lines[4:]) == sorted(
        [f"{name}:{none}" for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
        + ["NoNewPrivs:\t1"]
    )


def test_a_started_program_gains_nothing():
    code = """
import shutil, subprocess
privileges.give_up(privileges.find_user("nobody"))
done = subprocess.run([shutil.which("su"), "-c", "id -u"], capture_output=True, stdin=-3)
print(done.returncode != 0, done.stdout)
"""
    assert run(code) == "True b''\n"


def test_root_may_stay_root_without_capabilities():
    code = """
privileges.give_up(privileges.User(0, 0))
print(os.getuid())
try:
    os.chown("/etc/hostname", 1, 1)
except PermissionError:
    print("refused")
"""
    assert run(code) == "0\nrefused\n"


def test_an_unprivileged_user_stays_itself():
    code = 'privileges.give_up(privileges.find_user("0")); print(os.getuid())'
    assert run(code, *AS_NOBODY) == f"{NOBODY.pw_uid}\n"


def test_root_without_the_right_to_change_user():
    """A container without CAP_SETUID: root in name only."""
    code = """
privileges.give_up(privileges.find_user("nobody"))
print(os.getuid(), privileges._held())
"""
    bounded = ("setpriv", "--bounding-set=-setuid,-setgid")
    assert run(code, *bounded) == "0 0\n"


def test_another_thread_with_capabilities_is_detected():
    """Linux keeps capabilities per thread: an existing thread would keep its own."""
    code = """
gate = threading.Event()
threading.Thread(target=gate.wait, daemon=True).start()
try:
    privileges.give_up(privileges.User(0, 0))
except FlowstreamError as err:
    print(err)
gate.set()
"""
    assert "could not be dropped" in run(code)


def test_the_tests_themselves_are_privileged():
    assert os.geteuid() == 0
