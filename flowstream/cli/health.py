"""``flowstream health``: ask an agent whether it is alive, or ready."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import TYPE_CHECKING, Final

from flowstream.cli.messages import complain
from flowstream.errors import FlowstreamError
from flowstream.urls import LISTEN_FORMS, TcpListen, UnixListen, parse_listen
from flowstream.wording import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from flowstream.cli.options import Commands

TIMEOUT_S: Final = 5.0
_MOST_OCTETS: Final = 65_536

_EXAMPLES = """\
examples:
  flowstream health 127.0.0.1:9435
  flowstream health 127.0.0.1:9435 --ready
  flowstream health unix:/run/flowstream/metrics.sock

ADDRESS is that of the agent's --metrics. Asks for /healthz, with --ready for
/readyz, and prints the answer. The exit status is 1 when the answer is not 200,
and when there is none within five seconds. Made for the health checks of
containers, which need no other program for it.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "health",
        help="ask an agent whether it is alive, or ready",
        description="Ask an agent with --metrics whether it is alive, or ready.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("address", metavar="ADDRESS", help=LISTEN_FORMS)
    parser.add_argument(
        "--ready", action="store_true", help="whether it is attached, and publishes or spools"
    )
    parser.set_defaults(command=execute, extra="")


def execute(args: argparse.Namespace) -> int:
    """Print the answer; return 1 unless it is 200."""
    where = parse_listen(args.address)
    status, body = _ask(where, "/readyz" if args.ready else "/healthz")
    text = printable(body.decode("utf-8", "replace").strip())
    if status != 200:
        complain(f"{where}: {status} {text}")
        return 1
    print(text)
    return 0


def _ask(where: TcpListen | UnixListen, path: str) -> tuple[int, bytes]:
    """Return status and body of the answer."""
    import http.client  # noqa: PLC0415

    connection = http.client.HTTPConnection("localhost")
    try:
        with _time_limit():
            connection.sock = _connected(where)
            connection.request("GET", path, headers={"Connection": "close"})
            with connection.getresponse() as answer:
                return answer.status, answer.read(_MOST_OCTETS)
    except (OSError, http.client.HTTPException) as err:
        what = getattr(err, "strerror", None) or str(err) or type(err).__name__
        raise FlowstreamError(
            f"{where}: {what}; is an agent running with this address as --metrics?"
        ) from err
    finally:
        connection.close()


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raise TimeoutError in the block once it has taken ``TIMEOUT_S``, whatever comes in it.

    Limits of a socket are for each octet alone.
    """

    def expire(*_: object) -> None:
        raise TimeoutError("no answer in time")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _connected(where: TcpListen | UnixListen) -> socket.socket:
    if isinstance(where, TcpListen):
        host = "127.0.0.1" if where.host is None else str(where.host)
        return socket.create_connection((host, where.port))
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.connect(str(where.path))
    except OSError:
        connected.close()
        raise
    return connected
