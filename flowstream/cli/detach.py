"""``flowstream detach``: remove what runs with ``--pin`` have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.cli.messages import complain

if TYPE_CHECKING:
    import argparse

    from flowstream.cli.options import Commands

_EXAMPLES = """\
examples:
  sudo flowstream detach /sys/fs/bpf/flowstream

Detaches the programs that agents with --pin DIR have left on their interfaces,
and removes DIR with all pins in it. Prints a line per run: its interfaces, and
how many packets had not been published. They are lost; to publish them first,
run the agent once more with a pattern that matches no interface:
  sudo flowstream run --config /etc/flowstream/flowstream.toml -i 'none*' \\
    --duration 5
Works with pins of other versions, too. Needs root, or the user of the agents.
The exit status is 1 when something in DIR is no pin and stays, when an agent
uses DIR, and when there is no DIR.
"""


def add(commands: Commands) -> None:
    """Add the command and its argument."""
    parser = commands.add_parser(
        "detach",
        help="detach programs that agents with --pin have left, and remove their pins",
        description="Detach programs that agents with --pin have left, and remove their pins.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("directory", metavar="DIR", help="the directory of --pin")
    parser.set_defaults(command=execute, extra="agent")


def execute(args: argparse.Namespace) -> int:
    """Print what was removed; return 1 when something is left."""
    from flowstream.detach import detach  # noqa: PLC0415

    detached = detach(args.directory)
    for line in detached.runs or ["nothing was pinned"]:
        print(line)
    for left in detached.left:
        complain(f"{left}: not removed")
    return 1 if detached.left else 0
