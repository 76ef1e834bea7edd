"""``flowstream run`` at the TC hook: what it counts, and what it leaves however it ends.

    python3 runs.py        (as root, where nothing else uses the network)

It prints a line per check and exits with 1 when one failed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from check import AT_TC, POINTS, TRAFFIC_TIMEOUT_S, equal, tc, udp
from wires import accepted, far_side, run_all, veth

from flowstream.kernel import libbpf
from flowstream.kernel.link import Link, Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND: Final = (sys.executable, "-B", "-m", "flowstream")
RECORDING: Final = Path("/tmp/flowstream-run")
DEVICE: Final = "observed"
BOTH: Final = ("--direction", "both", "--hook", "tcx")
RECEIVED, SENT = 131, 113
ETHERTYPE: Final = 0x0800
PASSING: Final = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)
"""r0 = XDP_PASS; exit"""
FOREIGN: Final = 2
"""Priority of others' filters."""
START_S: Final = 600.0


class Run:
    """``flowstream run`` on DEVICE, with a recording of its own."""

    def __init__(self, *options: str) -> None:
        shutil.rmtree(RECORDING, ignore_errors=True)
        self._log = Path("/tmp/flowstream-run.log")
        arguments = ("run", "-i", f"{DEVICE}*", *options, "--sink", f"file:{RECORDING}")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([*COMMAND, *arguments], stderr=log)

    def logs(self, event: str) -> list[dict[str, Any]]:
        """Its log records of a kind."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in records if each["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until there are so many log records of a kind."""
        wait_until(lambda: len(self.logs(event)) >= count, f"{count} x {event}", self._log)
        return self.logs(event)

    @property
    def attacher(self) -> int:
        """Process id of its attacher."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(path.read_text(encoding="ascii"))

    def stop(self) -> None:
        """End it in order."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(START_S)
        assert status == 0, f"status {status}: {self._log.read_text(encoding='utf-8')}"

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_until(true: Callable[[], bool], what: str, log: Path | None = None) -> None:
    """Wait for a condition, which ``what`` names."""
    deadline = time.monotonic() + START_S
    while not true():
        text = log.read_text(encoding="utf-8") if log else ""
        assert time.monotonic() < deadline, f"not in {START_S:.0f} s: {what}\n{text}"
        time.sleep(0.01)


@contextmanager
def running(*options: str) -> Iterator[Run]:
    with closing(Run(*options)) as run:
        run.wait_for("publishing")
        yield run


@contextmanager
def wire() -> Iterator[Callable[[], None]]:
    """DEVICE, up, and what makes it receive RECEIVED packets and send SENT."""
    with ExitStack() as stack:
        far = stack.enter_context(veth(DEVICE, "opposite"))
        near, tap = (
            stack.enter_context(closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)))
            for _ in range(2)
        )
        near.bind((DEVICE, 0))
        # It has the packets that have passed the hook.
        tap.bind((DEVICE, ETHERTYPE))
        tap.settimeout(TRAFFIC_TIMEOUT_S)

        def exchange() -> None:
            for send, count in ((far.send, RECEIVED), (accepted(near.send), SENT)):
                for _ in range(count):
                    send(udp(1, 1).frame)
            for _ in range(RECEIVED):
                tap.recv(2048)

        yield exchange


def audited() -> dict[tuple[int, str], int]:
    """Packets in published flows by interface and direction; the audit must hold."""
    command = [*COMMAND, "audit", f"file:{RECORDING}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"audit: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    (run,) = json.loads(done.stdout)["runs"]
    for each in run["interfaces"]:
        equal("difference", each["difference"], {"packets": 0, "l2_bytes": 0})
    return {
        (each["if_index"], POINTS[each["flow_direction"]]): each["flows"]["packets"]
        for each in run["interfaces"]
    }


def expected(index: int, times: int = 1) -> dict[tuple[int, str], int]:
    """Packets after so many exchanges."""
    return {(index, "ingress"): times * RECEIVED, (index, "egress"): times * SENT}


def left() -> tuple[int, int]:
    """Qdiscs of clsact, and flowstream's filters, on DEVICE."""
    shown = [tc(f"filter show dev {DEVICE} {point}") for point in POINTS]
    filters = re.findall(r"handle 0x\w+ flowstream direct-action", "".join(shown))
    return len(re.findall(r"qdisc clsact", tc(f"qdisc show dev {DEVICE}"))), len(filters)


AT_WORK: Final = (0, 0) if AT_TC is Mode.TCX else (1, 2)
"""What ``left`` finds while a run observes both directions."""


def check_both() -> str:
    """Both directions, to the end of the run."""
    with wire() as exchange, running(*BOTH) as run:
        modes = {each["direction"]: each["mode"] for each in run.wait_for("attached", 2)}
        equal("modes", modes, {"ingress": AT_TC.value, "egress": AT_TC.value})
        equal("restricted", run.logs("attacher_calls_not_restricted"), [])
        equal("qdiscs and filters", left(), AT_WORK)
        exchange()
        run.stop()
        equal("qdiscs and filters", left(), (0, 0))
        equal("packets", audited(), expected(socket.if_nametoindex(DEVICE)))
    return f"{RECEIVED} packets received and {SENT} sent, {AT_TC}, difference 0"


def check_killed() -> str:
    """The agent alone, then with its attacher, whose filters the next run removes."""
    with wire() as exchange:
        with running(*BOTH) as run:
            run.process.kill()
            wait_until(lambda: left() == (0, 0), "the attacher removes its filters")
        with running(*BOTH) as run:
            attacher = run.attacher
            os.kill(run.process.pid, signal.SIGSTOP)
            os.kill(attacher, signal.SIGKILL)
            run.process.kill()
            run.process.wait()
        found = left()
        equal("qdiscs and filters", found, AT_WORK)
        with running(*BOTH) as run:
            equal("qdiscs and filters", left(), AT_WORK)
            exchange()
            run.stop()
        equal("qdiscs and filters", left(), (0, 0))
        equal("packets", audited(), expected(socket.if_nametoindex(DEVICE)))
    return f"{found[1]} filters left by SIGKILL of both processes, none after the next run"


def check_link_deleted() -> str:
    """The link goes and comes back under the same name."""
    packets: dict[tuple[int, str], int] = {}
    with ExitStack() as stack:
        with wire() as exchange:
            run = stack.enter_context(running(*BOTH))
            exchange()
            packets |= expected(socket.if_nametoindex(DEVICE))
        run.wait_for("interface_gone")
        with wire() as exchange:
            run.wait_for("attached", 4)
            exchange()
            packets |= expected(socket.if_nametoindex(DEVICE))
            run.stop()
            equal("qdiscs and filters", left(), (0, 0))
        equal("packets", audited(), packets)
    return f"observed again, {len(packets)} accounts with difference 0"


def check_others() -> str:
    """Filters and the qdisc of another owner stay, whoever deletes what.

    His filters take every packet that they see.
    """
    with wire() as exchange:
        tc(f"qdisc add dev {DEVICE} clsact")
        add_foreign()
        before = foreign()
        with running(*BOTH) as run:
            exchange()
            equal("foreign filters", foreign(), before)
            tc(f"qdisc delete dev {DEVICE} clsact")
            tc(f"qdisc add dev {DEVICE} clsact")
            add_foreign()
            replaced = run.wait_for("program_replaced", 2)
            equal("programs there", {each["program_id"] for each in replaced}, {0})
            run.wait_for("attached", 4)
            exchange()
            run.stop()
        equal("qdiscs and filters", left(), (1, 0))
        equal("foreign filters", foreign(), before)
        equal("packets", audited(), expected(socket.if_nametoindex(DEVICE), 2))
    return "qdisc and filters of others stay; attached again when they deleted the qdisc"


def add_foreign() -> None:
    for point in POINTS:
        where = f"dev {DEVICE} {point} prio {FOREIGN} protocol ip"
        tc(f"filter add {where} u32 match u8 0 0 classid 1:1")


def foreign() -> str:
    shown = "".join(tc(f"filter show dev {DEVICE} {point} prio {FOREIGN}") for point in POINTS)
    assert "flowid 1:1" in shown, shown
    return shown


def check_beside_xdp() -> str:
    """With --hook auto, where another XDP program has the interface."""
    with wire() as exchange:
        index = socket.if_nametoindex(DEVICE)
        other = libbpf.prog_load("passing", PASSING, libbpf.BPF_F_XDP_HAS_FRAGS)
        with Link(other, index, Mode.GENERIC), running() as run:
            (attached,) = run.wait_for("attached")
            equal("mode", attached["mode"], AT_TC.value)
            exchange()
            run.stop()
            equal("program there", libbpf.attached_program(index), libbpf.prog_info(other))
        equal("packets", audited(), {(index, "ingress"): RECEIVED})
    return f"{RECEIVED} packets, {AT_TC}; {attached['reason']}"


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    """Name each check, and the function that makes it."""
    yield "run", check_both
    yield "run killed", check_killed
    yield "run, link deleted", check_link_deleted
    yield "run beside XDP", check_beside_xdp
    if AT_TC is Mode.CLSACT:
        yield "run beside filters", check_others


def main() -> int:
    """Run every check; exit status 1 when one failed."""
    with far_side():
        return run_all(cases())


if __name__ == "__main__":
    sys.exit(main())
