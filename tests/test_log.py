from __future__ import annotations

import errno
import io
import json
import logging
import warnings
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from flowstream import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    tried = False

    def write(self, text: str) -> int:
        self.tried = True
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def restored():
    """Restore logging for the other tests."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions)
    levels = {name: logging.getLogger(name).level for name in log._TALKATIVE}
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], level, logging.raiseExceptions = before
    root.setLevel(level)
    for name, was in levels.items():
        logging.getLogger(name).setLevel(was)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_off_a_terminal():
    stream = io.StringIO()
    log.configure(stream=stream)
    structlog.get_logger("flowstream.sink").info("published", records=17, interface="veth\u00e9")
    (line,) = lines(stream)
    assert stream.getvalue().isascii()
    time = datetime.fromisoformat(line.pop("timestamp"))
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(seconds=30)
    assert line == {
        "event": "published",
        "level": "info",
        "logger": "flowstream.sink",
        "records": 17,
        "interface": "veth\u00e9",
    }


def test_readable_lines_on_a_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    log.configure(stream=stream)
    structlog.get_logger("flowstream").info("published", records=17)
    assert "published" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_no_color_disables_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    log.configure(stream=stream)
    structlog.get_logger("flowstream").info("published", records=17)
    assert "records=17" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


@pytest.mark.parametrize(("log_format", "starts"), [("json", "{"), ("console", "2")])
def test_a_selected_format(log_format, starts):
    for stream in (Terminal(), io.StringIO()):
        log.configure(log_format=log_format, stream=stream)
        structlog.get_logger("flowstream").info("published")
        assert stream.getvalue().removeprefix("\x1b[2m").startswith(starts)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_levels(level):
    stream = io.StringIO()
    log.configure(level, stream=stream)
    logger = structlog.get_logger("flowstream")
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(logger, name)("said")
    assert [line["level"] for line in lines(stream)] == names[names.index(level) :]


def test_libraries_are_routed_through_structlog():
    stream = io.StringIO()
    log.configure(stream=stream)
    logging.getLogger("aiokafka.conn").info("too much of this")
    logging.getLogger("aiokafka.conn").warning("lost %s", "10.0.0.1:9092", extra={"node": 3})
    logging.getLogger("other").info("told")
    found = lines(stream)
    assert [(line["logger"], line["event"]) for line in found] == [
        ("aiokafka.conn", "lost 10.0.0.1:9092"),
        ("other", "told"),
    ]
    assert found[0]["node"] == 3
    assert "timestamp" in found[0]


def test_at_level_debug_libraries_log_everything():
    stream = io.StringIO()
    log.configure("debug", stream=stream)
    logging.getLogger("aiokafka.conn").debug("a request")
    assert [line["event"] for line in lines(stream)] == ["a request"]


def test_an_exception_is_one_line():
    stream = io.StringIO()
    log.configure(stream=stream)
    try:
        int("17\n19")
    except ValueError:
        structlog.get_logger("flowstream").exception("failed")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert line["exception"].endswith(r"with base 10: '17\n19'")


def test_warnings_are_logged():
    stream = io.StringIO()
    log.configure(stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines(stream)
    assert (line["level"], "DeprecationWarning: old" in line["event"]) == ("warning", True)


def test_a_second_configuration_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    log.configure(stream=first)
    logger = structlog.get_logger("flowstream")
    logger.info("one")
    log.configure(stream=second)
    logger.info("two")
    assert [line["event"] for line in lines(first)] == ["one"]
    assert [line["event"] for line in lines(second)] == ["two"]


def test_a_failing_stream_is_ignored(capsys):
    stream = Full()
    log.configure(stream=stream)
    structlog.get_logger("flowstream").info("lost")
    assert stream.tried
    assert capsys.readouterr().err == ""


def test_a_terminal_is_not_told_what_to_do_by_names():
    stream = Terminal()
    log.configure("info", "console", stream)
    structlog.get_logger("test").info("attached", interface="\x1b[2J\udcff")
    assert r"\x1b[2J\udcff" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
