"""Commands whose output is read by another process."""

from __future__ import annotations

import subprocess
import sys


def closed_after_a_line(*args: str) -> bytes:
    """Run flowstream, close its pipe after a line, and return that; it must end quietly."""
    command = [sys.executable, "-m", "flowstream", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        try:
            line = process.stdout.readline()
            process.stdout.close()
            assert process.wait(60) == 141
        finally:
            process.kill()
        assert process.stderr.read() == b""
    return line
