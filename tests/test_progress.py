"""Bars on a terminal reach their total and are absent elsewhere; Ctrl-C ends in order."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from packets.pcap_files import Packet, pcap
from support.copies import Content, batch_of
from support.line import line_in_thread, listen
from support.outcomes import Account, make_batch
from support.published import Published, publish

from flowstream.kafka.settings import ClientSettings
from flowstream.kafka.sink import KafkaSink
from flowstream.segments.sink import SegmentSink
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker import Broker

PROGRAM = (sys.executable, "-m", "flowstream.cli.main")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
HOUR_MS = 3_600_000


class Terminal:
    """A command with a terminal as its standard error; ``screen`` is its output there."""

    def __init__(self, master: int, process: subprocess.Popen[str]) -> None:
        self._master, self.process = master, process
        self._settings = termios.tcgetattr(master)
        self.screen = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while True:
            try:
                data += os.read(self._master, 65_536)
            except OSError:  # no process has the terminal open any more
                return
            self.screen = data.decode(errors="replace")

    def end(self) -> tuple[int, str]:
        """Wait for the end; return status and standard output. The terminal must be restored."""
        out, _ = self.process.communicate(timeout=60)
        self._reader.join(60)
        assert termios.tcgetattr(self._master) == self._settings
        assert self.screen.rfind(SHOW) >= self.screen.rfind(HIDE)
        assert not self.screen or self.screen.endswith(("\n", SHOW))
        return self.process.returncode, out


@contextmanager
def terminal(*args: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    env = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")
    }
    process = subprocess.Popen(
        [*PROGRAM, *args],
        stdout=subprocess.PIPE, stderr=slave, text=True, env=env | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(master)


def check(
    *args: str, amount: str, again: Callable[[], object] = lambda: None, says: str = ""
) -> None:
    """Run a command with and without a terminal: only the bar differs; it ends at ``amount``.

    ``says`` is everything else that it writes to standard error.
    """
    with terminal(*args) as shown:
        status, out = shown.end()
    assert status == 0, shown.screen
    # Without colours and cursor movements.
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.screen)
    assert re.findall(r"[\d.]+/[\d.]+", text)[-1] == amount
    assert HIDE in shown.screen
    again()
    done = subprocess.run([*PROGRAM, *args], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, says)


async def fill(sink: SegmentSink | KafkaSink, topic: str, count: int) -> None:
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, count))
    await sink.flush(60)
    await sink.close(5)


def test_record(broker: Broker, tmp_path: Path) -> None:
    topic = f"bar-{tmp_path.name}"
    asyncio.run(fill(KafkaSink(broker.cluster, Account(), partitions=1), topic, 101))
    copy = tmp_path / "copy"
    check(
        *("record", broker.url, "--topic", topic, "--to", str(copy)),
        amount="101/101",
        again=lambda: copy.rename(tmp_path / "first"),
    )


def test_replay(broker: Broker, tmp_path: Path) -> None:
    topic = f"bar-{tmp_path.name}"
    asyncio.run(fill(SegmentSink(tmp_path, Account(), partitions=1), topic, 101))
    check("replay", str(tmp_path), "--to", broker.url, "--loop", "3", amount="303/303")


def test_audit(tmp_path: Path) -> None:
    asyncio.run(publish(f"file:{tmp_path}", "json", Published()))
    check("audit", str(tmp_path), amount="46/46")


def test_report(tmp_path: Path) -> None:
    """Two bars, the last of which counts parts of sums: flows, pairs, services and addresses."""
    asyncio.run(publish(f"file:{tmp_path}/run", "json", Published()))
    page = tmp_path / "page.html"
    check("report", f"{tmp_path}/run", "-o", str(page), amount="4/4", again=page.unlink)
    assert page.exists()


def test_audit_of_a_broker(broker: Broker, tmp_path: Path) -> None:
    prefix = f"bar-{tmp_path.name}"
    asyncio.run(publish(f"file:{tmp_path}", "json", Published()))
    for path in tmp_path.glob("flowstream.*"):
        path.rename(path.with_name(path.name.replace("flowstream", prefix, 1)))
    subprocess.run([*PROGRAM, "replay", tmp_path, "--to", broker.url], check=True)
    check("audit", broker.url, "--topic-prefix", prefix, amount="46/46")


def test_pcap(tmp_path: Path) -> None:
    """The file's name is text, also where it looks like rich's markup."""
    capture = tmp_path / "a[red]b.pcap"
    packets = [Packet(1_000_000_000 * n, bytes(12) + b"\x08\x06" + bytes(46)) for n in range(7)]
    capture.write_bytes(pcap(packets))
    size = capture.stat().st_size
    says = "7 packets of 1 file in 0 flow records -> stdout:\n"
    check("pcap", str(capture), "--sink", "stdout:", amount=f"{size}/{size}", says=says)
    with terminal("pcap", str(capture), "--sink", f"file:{tmp_path}/out") as shown:
        assert shown.end() == (0, "")
    assert capture.name in shown.screen


# --- Ctrl-C ------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


async def messages(url: str, topic: str) -> list[bytes]:
    source = open_source(url, [topic])
    return [message.value async for batch in source.batches() for message in batch]


def test_interrupted_record_ends_in_order(
    broker_factory: Callable[..., Broker], tmp_path: Path
) -> None:
    """Answers that come slowly, and then not at all, keep the recording incomplete for certain."""
    count, topic = 50_000, "interrupted"
    segment = tmp_path / f"{topic}-0" / f"{0:020}.log"
    with listen() as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        broker = broker_factory(**{"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"})
        line = stack.enter_context(line_in_thread(listener, broker.port))

        async def fill_much() -> None:
            sink = KafkaSink(ClientSettings((f"127.0.0.1:{port}",)), Account(), partitions=1)
            await sink.start([topic])
            for first in range(0, count, 10_000):
                await sink.send(make_batch(topic, 0, first, 10_000))
            await sink.flush(60)
            await sink.close(5)

        asyncio.run(fill_much())
        # Of at least 150 parts.
        line.late_s = 0.2
        url = f"kafka://127.0.0.1:{port}"
        with terminal("record", url, "--topic", topic, "--to", str(tmp_path)) as shown:
            wait_for(lambda: segment.exists() and segment.stat().st_size)
            line.mute = True
            shown.process.send_signal(signal.SIGINT)
            assert shown.end() == (130, "")
    assert "Traceback" not in shown.screen
    assert "recording" in shown.screen
    values = asyncio.run(messages(str(tmp_path), topic))
    assert 0 < len(values) < count


def test_interrupted_replay_ends_in_order(broker: Broker, tmp_path: Path) -> None:
    topic = f"interrupted-{tmp_path.name}"
    rows = [Content(1_600_000_000_000 + n * HOUR_MS, b"", b"%d" % n) for n in range(2)]

    async def fill_two() -> None:
        sink = SegmentSink(tmp_path, Account(), partitions=1)
        await sink.start([topic])
        await sink.send(batch_of(topic, 0, rows))
        await sink.close(5)

    asyncio.run(fill_two())
    with terminal("replay", str(tmp_path), "--to", broker.url, "--speed", "1") as shown:
        wait_for(lambda: "1/2" in shown.screen)
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == (130, "")
    assert "Traceback" not in shown.screen
    assert asyncio.run(messages(broker.url, topic)) == [b"0"]


@pytest.mark.parametrize("command", ["record", "replay", "audit", "report"])
def test_interrupted_while_nothing_answers(
    broker_factory: Callable[..., Broker], tmp_path: Path, command: str
) -> None:
    asyncio.run(fill(SegmentSink(tmp_path, Account(), partitions=1), "t", 7))
    silent = broker_factory()
    arguments = {
        "record": (silent.url, "--topic", "t", "--to", str(tmp_path / "copy")),
        "replay": (str(tmp_path), "--to", silent.url),
        "audit": (silent.url,),
        "report": (silent.url, "-o", str(tmp_path / "page.html")),
    }[command]
    os.kill(silent.pid, signal.SIGSTOP)
    try:
        with terminal(command, *arguments) as shown:
            wait_for(lambda: connections(silent.port))
            shown.process.send_signal(signal.SIGINT)
            assert shown.end() == (130, "")
    finally:
        os.kill(silent.pid, signal.SIGCONT)
    assert "Traceback" not in shown.screen
    assert [path.name for path in tmp_path.iterdir() if "page" in path.name] == []


def connections(port: int) -> list[str]:
    """Established connections to this port."""
    done = subprocess.run(
        ["ss", "-Htn", "state", "established", f"dport = :{port}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()
