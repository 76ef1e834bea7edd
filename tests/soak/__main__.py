"""The command ``python -m soak``: kills, restarts, a steady run, an outage, interfaces."""

from __future__ import annotations

import argparse
import sys
import time

from soak import interfaces, kills, outage, restarts, steady


def main() -> int:
    """Run what is asked for; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (kills, restarts, steady, outage, interfaces):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.__doc__)
        module.add_options(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    began = time.monotonic()
    missed = arguments.run(arguments)
    for text in missed:
        print(f"missed: {text}")
    print(f"{time.monotonic() - began:.0f} s, {'failed' if missed else 'passed'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
