"""The agent, which tells its asyncio tasks when asked by SIGUSR1.

python -m soak.agent PYTHON -m flowstream ARGUMENT... runs it as without the first three.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from flowstream.cli.main import main


def _tell(*_: object) -> None:
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    print(json.dumps({"event": "tasks", "names": names}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.exit(main(sys.argv[4:]))
