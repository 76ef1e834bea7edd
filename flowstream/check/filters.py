"""Finding about a packet filter (``--filter``)."""

from __future__ import annotations

from typing import NamedTuple

from flowstream.check.finding import Finding, Status
from flowstream.errors import FilterError, FlowstreamError
from flowstream.filtering.compiling import compile_filter
from flowstream.host import privileges

_SUBJECT = "filter"


class CheckedFilter(NamedTuple):
    """The finding, and why the filter has no meaning for raw IP: "" where it has one."""

    finding: Finding
    not_raw_ip: str = ""


def check_filter(expression: str) -> CheckedFilter:
    """Compile an expression, as the agent would at its start."""
    user = privileges.find_user(privileges.user_name(None))
    try:
        made = compile_filter(expression, user)
    except FilterError as err:
        words, shown, *_ = err.lines
        text = f"{words.removeprefix('filter: ')}, in: {shown.strip()}"
        remedy = "correct it, see pcap-filter(7)"
        return CheckedFilter(Finding(Status.FAIL, _SUBJECT, text, remedy))
    except FlowstreamError as err:
        text = str(err).removeprefix("filter: ")
        return CheckedFilter(Finding(Status.FAIL, _SUBJECT, text))
    without = f"; none without a link-layer header: {made.not_raw_ip}" if made.not_raw_ip else ""
    text = f"{made.instructions} instructions of classic BPF{without}"
    return CheckedFilter(Finding(Status.OK, _SUBJECT, text), made.not_raw_ip)
