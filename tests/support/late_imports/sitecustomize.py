"""Refuses every import of a process that has given up root; on PYTHONPATH of the tested process.

The file LATE_IMPORTS gets the name of each module, because an ImportError may be caught.
"""

import os
import sys

_report = os.open(os.environ["LATE_IMPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import" and os.geteuid() != 0:
        os.write(_report, f"{arguments[0]}\n".encode())
        raise ImportError(f"{arguments[0]} is imported after root was given up")


if os.geteuid() == 0:
    sys.addaudithook(_refuse)
