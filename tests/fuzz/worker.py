"""One target in a process of its own, guided by coverage: ``python -m fuzz.worker``.

First every seed and saved input is cut at every octet and gets every bit flipped;
then atheris mutates what reaches new code. A finding ends the process with a
status other than 0 and leaves its input in the directory of findings.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import atheris

import fuzz
from fuzz import bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Of the time, for the systematic changes.
_SYSTEMATIC_PART: Final = 0.3
_MOST_SYSTEMATIC: Final = 8_192
_HANG_SECONDS: Final = 30
_MEMORY_MIB: Final = 2_048
_MAX_OCTETS: Final = 65_536
# Pure Python that our code calls is guided too.
_INSTRUMENTED: Final = ["flowstream", "tomllib", "argparse", "aiokafka.record", "gzip"]


def main() -> None:
    """Fuzz the target ``argv[1]`` for ``argv[2]`` seconds; ``argv[3]`` is a working directory."""
    name, seconds, work = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    findings, corpus = work / "findings", work / "corpus"
    for directory in (findings, corpus):
        directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # Within: what a reader imports with its first input is instrumented as well.
    with atheris.instrument_imports(include=_INSTRUMENTED):
        module = fuzz.load(name)
        starts = [*module.seeds(), *(file.read_bytes() for file in fuzz.saved(name))]
        for data in starts:
            (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
            _try(module.target, data, findings)
    executions = len(starts)
    for data in _systematic(starts):
        _try(module.target, data, findings)
        executions += 1
        if time.monotonic() - began > seconds * _SYSTEMATIC_PART:
            break
    print(f"systematic: {executions} executions", flush=True)
    left = max(1, int(seconds - (time.monotonic() - began)))
    change = getattr(module, "mutate", None)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if change is None or not data or rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return bytes(change(data, rng)[:most])

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={left}",
            f"-timeout={_HANG_SECONDS}",
            f"-rss_limit_mb={_MEMORY_MIB}",
            f"-max_len={_MAX_OCTETS}",
            f"-artifact_prefix={findings}{os.sep}",
            "-print_final_stats=1",
            str(corpus),
        ],
        lambda data: bounds.run(module.target, data),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def _try(target: Callable[[bytes], None], data: bytes, findings: Path) -> None:
    """Run one input; leave it among the findings if it is one."""
    # A hang or a killed process leaves its input too.
    path = findings / f"systematic-{hashlib.sha1(data).hexdigest()}"
    path.write_bytes(data)
    bounds.run(target, data)
    path.unlink()


def _systematic(starts: list[bytes]) -> Iterator[bytes]:
    """Yield every start cut at every octet, then with every bit flipped; the shortest first."""
    for data in sorted(starts, key=len):
        if len(data) > _MOST_SYSTEMATIC:
            return
        for place in range(len(data)):
            yield data[:place]
            for bit in range(8):
                yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


if __name__ == "__main__":
    main()
