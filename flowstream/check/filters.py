"""Finding about a packet filter (``--filter``)."""

from __future__ import annotations

from flowstream.check.finding import Finding, Status
from flowstream.errors import FilterError, FlowstreamError
from flowstream.filtering.compiling import compile_filter
from flowstream.host import privileges

_SUBJECT = "filter"


def check_filter(expression: str) -> Finding:
    """Compile an expression, as the agent would at its start."""
    user = privileges.find_user(privileges.user_name(None))
    try:
        made = compile_filter(expression, user)
    except FilterError as err:
        words, shown, *_ = err.lines
        text = f"{words.removeprefix('filter: ')}, in: {shown.strip()}"
        return Finding(Status.FAIL, _SUBJECT, text, "correct it, see pcap-filter(7)")
    except FlowstreamError as err:
        return Finding(Status.FAIL, _SUBJECT, str(err).removeprefix("filter: "))
    without = f"; none without a link-layer header: {made.not_raw_ip}" if made.not_raw_ip else ""
    text = f"{made.instructions} instructions of classic BPF{without}"
    return Finding(Status.OK, _SUBJECT, text)
