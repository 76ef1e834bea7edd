"""Fuzz what is read from outside, or repeat a finding."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import fuzz
from fuzz import bounds
from fuzz.minimize import minimize

_WORK: Final = Path(".cache/fuzz")
# libFuzzer ends by itself; this is for one that does not.
_GRACE_SECONDS: Final = 120
_PROGRESS: Final = re.compile(r"#(\d+)\s+\w+.* cov: (\d+) .* corp: (\d+)/.* exec/s: (\d+)")
_DONE: Final = re.compile(r"(?:systematic: |stat::number_of_executed_units: )(\d+)")
_PROGRESS_SECONDS: Final = 20

_EPILOG = f"""\
targets:
{chr(10).join(f"  {name:15}{what}" for name, what in fuzz.TARGETS.items())}

examples:
  make fuzz
  make fuzz ARGS="--seconds 600 --target values --target segments"
  make fuzz ARGS="--target values --input .cache/fuzz/values/findings/crash-0123"
  make fuzz ARGS="--target values --minimize .cache/fuzz/values/findings/crash-0123"

The inputs that reach new code are kept in {_WORK}/TARGET/corpus for the next
time. Move the minimized input of a mended fault to tests/fuzz/corpus/TARGET:
make test reads all of those. The exit status is 1 when there was a finding.
"""


def main() -> int:
    """Fuzz the named targets one after the other; return 1 when one had a finding."""
    parser = argparse.ArgumentParser(
        prog="make fuzz",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--target", metavar="TARGET", action="append", choices=fuzz.TARGETS, dest="targets",
        help="target to fuzz; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=int, default=60, help="time for each target (default 60)"
    )
    parser.add_argument("--input", type=Path, metavar="FILE", help="read this file once instead")
    parser.add_argument(
        "--minimize", type=Path, metavar="FILE", help="shorten a finding; writes FILE.min"
    )
    args = parser.parse_args()
    targets = args.targets or list(fuzz.TARGETS)
    if file := args.input or args.minimize:
        if len(targets) != 1:
            parser.error("name one --target with --input or --minimize")
        return _minimize(targets[0], file) if args.minimize else _repeat(targets[0], file)
    found = [name for name in targets if not _fuzz(name, args.seconds)]
    print(f"{len(targets)} targets, findings in: {', '.join(found) or 'none'}")
    return 1 if found else 0


def _repeat(name: str, file: Path) -> int:
    bounds.run(fuzz.load(name).target, file.read_bytes())
    print(f"{file}: no finding")
    return 0


def _minimize(name: str, file: Path) -> int:
    shortest = minimize(fuzz.load(name).target, file.read_bytes())
    path = file.with_name(f"{file.name}.min")
    path.write_bytes(shortest)
    print(f"{path}: {len(shortest)} octets instead of {file.stat().st_size}")
    return 0


def _fuzz(name: str, seconds: int) -> bool:
    """Run one target in a process of its own; return whether there was no finding."""
    work = _WORK / name
    work.mkdir(parents=True, exist_ok=True)
    before = set(work.glob("findings/*"))
    command = [sys.executable, "-m", "fuzz.worker", name, str(seconds), str(work)]
    log = work / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _watch(process, name, log, seconds)
        finally:
            process.kill()
            status = process.wait()
    findings = sorted(set(work.glob("findings/*")) - before)
    print(f"{name:15}{_executions(log):12,} executions, findings: {len(findings)}", flush=True)
    if status and not findings:
        print(f"{name}: ended with status {status}; see {log}")
    for path in findings:
        print(_summary(log))
        print(f'reproduce: make fuzz ARGS="--target {name} --input {path}"')
    return not findings and not status


def _watch(process: subprocess.Popen[bytes], name: str, log: Path, seconds: int) -> None:
    """Print a line of progress now and then, until the process ends."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds + _GRACE_SECONDS:
        try:
            process.wait(_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name:15}{passed + _PROGRESS_SECONDS:5.0f} s  {_progress(log)}", flush=True)
        else:
            return


def _progress(log: Path) -> str:
    found = _PROGRESS.findall(log.read_text(errors="replace"))
    if not found:
        return "every octet of the seeds"
    executions, coverage, inputs, rate = map(int, found[-1])
    return f"{executions:12,} executions {rate:7,}/s  coverage {coverage:6,}  inputs {inputs:6,}"


def _executions(log: Path) -> int:
    return sum(map(int, _DONE.findall(log.read_text(errors="replace"))))


def _summary(log: Path) -> str:
    """Return the last line of the traceback."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b|ERROR:", line)]
    return errors[0] if errors else lines[-1]


if __name__ == "__main__":
    sys.exit(main())
