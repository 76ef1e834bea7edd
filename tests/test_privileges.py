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


def test_groups_are_left_also_as_root():
    code = "privileges.give_up(privileges.User(0, 0)); print(os.getgroups())"
    assert run(code, "setpriv", "--groups=4,27") == "[]\n"


def test_inheritable_and_ambient_capabilities_are_dropped():
    code = """
privileges.give_up(privileges.find_user("nobody"))
for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(("CapInh", "CapAmb")):
        print(int(line.split()[1], 16))
"""
    assert run(code, "setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw") == "0\n0\n"


def test_a_program_that_root_without_capabilities_starts_has_none():
    code = """
import subprocess
privileges.give_up(privileges.User(0, 0))
subprocess.run(["grep", "CapEff", "/proc/self/status"])
"""
    assert run(code) == f"CapEff:\t{0:016}\n"


def test_no_other_process_of_the_user_can_look_inside():
    """Its descriptors are those of maps and programs."""
    code = """
import ctypes, subprocess
privileges.give_up(privileges.find_user("nobody"))
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
other = "import os, sys; os.listdir(f'/proc/{sys.argv[1]}/fd')"
done = subprocess.run(["/usr/bin/python3", "-c", other, str(os.getpid())], capture_output=True)
print(b"PermissionError" in done.stderr)
"""
    assert run(code) == "0\nTrue\n"


KEYS = """
import ctypes, platform
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
libc, READ, SESSION = ctypes.CDLL(None), 11, -3
def readable(key):
    return libc.syscall(KEYCTL, READ, key, None, 0) >= 0
"""


def test_keys_of_the_session_stay_behind():
    code = (
        KEYS
        + """
key = libc.syscall(ADD_KEY, b"user", b"flowstream-test", b"secret", 6, SESSION)
assert key > 0
print(readable(key))
privileges.give_up(privileges.find_user("nobody"))
print(readable(key))
"""
    )
    join = f"{KEYS}\nlibc.syscall(KEYCTL, 1, None)\n"
    assert run(join + code) == "True\nFalse\n"


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


def test_without_proc_nothing_is_taken_for_given_up():
    code = """
try:
    privileges.give_up(privileges.find_user("nobody"))
except FlowstreamError as err:
    print(err)
"""
    before = ("unshare", "--mount", "sh", "-c", 'umount --lazy /proc && exec "$@"', "sh")
    assert run(code, *before) == ("/proc is not mounted: it tells which capabilities are left\n")


REFUSE_BPF = """
import ctypes
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(library.seccomp_init(0x7FFF0000))
number = library.seccomp_syscall_resolve_name(b"bpf")
assert library.seccomp_rule_add_array(context, 0x00050001, number, 0, None) == 0
assert library.seccomp_load(context) == 0
"""


@pytest.mark.parametrize("refuse", ["", REFUSE_BPF])
def test_a_kernel_that_forbids_bpf_to_all_without_capabilities(refuse):
    """As Linux before 5.19 does by a sysctl: in its place, a filter refuses the call."""
    code = """
from flowstream.kernel import features
privileges.give_up(privileges.find_user("nobody"))
try:
    features.require_unprivileged()
except FlowstreamError as err:
    print(err)
"""
    said = run(refuse + code)
    assert said.startswith("this kernel forbids bpf(2)") if refuse else said == ""
