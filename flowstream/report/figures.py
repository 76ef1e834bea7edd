"""The plots, as plotly's JSON without colours: the page gives them those of its theme.

Every text out of records goes through ``label``: plotly reads tags in labels. A trace has
the number of its colour in ``meta``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowstream.report.markup import label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowstream.report.bins import Series

Figure = dict[str, Any]
_BAR: Final = 24
"""Height of a bar and its gap in pixels."""


def over_time(
    series: Series, named: Mapping[str, Sequence[float]], unit: str, *, stacked: bool
) -> Figure:
    """Amounts over time as steps; ``named`` has one number for each bin of the series."""
    first, width = series.start_ns // 10**6, series.width_ns // 10**6
    bins = series.amounts.shape[1]
    # The last step ends where its bin does.
    times = [first + n * width for n in range(bins + 1)]
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label(name),
            "x": times,
            "y": [*values, values[-1]],
            "line": {"shape": "hv", "width": 0 if stacked else 1},
            "meta": number,
            "hovertemplate": "%{y:.3s}" + unit,
            **({"stackgroup": "all"} if stacked else {"fill": "tozeroy"}),
        }
        for number, (name, values) in enumerate(named.items())
    ]
    layout = {
        "hovermode": "x unified",
        "height": 380,
        "showlegend": True,
        "xaxis": {"type": "date", "title": {"text": "UTC"}},
        "yaxis": {"rangemode": "tozero", "tickformat": "~s", "ticksuffix": unit},
    }
    return {"data": traces, "layout": layout}


def ranked(names: Sequence[str], parts: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Bars with a name each, the largest above, of parts that are stacked."""
    places = [str(n) for n in range(1, len(names) + 1)]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(part),
            "y": places,
            "x": list(values),
            "customdata": [label(name) for name in names],
            "meta": number,
            "hovertemplate": "%{customdata}: %{x:.3s}" + unit,
        }
        for number, (part, values) in enumerate(parts.items())
    ]
    layout = {
        "barmode": "stack",
        "height": 140 + _BAR * len(names),
        "showlegend": True,
        "xaxis": {"tickformat": "~s", "ticksuffix": unit, "nticks": 6},
        "yaxis": {
            "type": "category",
            "autorange": "reversed",
            "tickvals": places,
            "ticktext": [label(_short(name)) for name in names],
        },
    }
    return {"data": traces, "layout": layout}


def histogram(names: Sequence[str], parts: Mapping[str, Sequence[int]], title: str) -> Figure:
    """Counts of bins that grow by a factor, so that the axis is logarithmic, as the other is."""
    traces = [
        {
            "type": "bar",
            "name": label(part),
            "x": list(names),
            "y": list(values),
            "meta": number,
            "hovertemplate": "%{x}: %{y:,}",
        }
        for number, (part, values) in enumerate(parts.items())
    ]
    layout = {
        "barmode": "group",
        "height": 370,
        "showlegend": True,
        "xaxis": {"type": "category", "title": {"text": label(title)}},
        "yaxis": {"type": "log", "title": {"text": "flows"}, "dtick": 1, "tickformat": "~s"},
    }
    return {"data": traces, "layout": layout}


def waterfall(names: Sequence[str], packets: Sequence[int]) -> Figure:
    """The loss equation: the first term, what is taken from it, and the rest as the last."""
    inner = len(names) - 2
    trace = {
        "type": "waterfall",
        "orientation": "h",
        "y": [label(name) for name in names],
        "x": [packets[0], *(-each for each in packets[1:-1]), packets[-1]],
        "measure": ["absolute", *["relative"] * inner, "total"],
        "customdata": [f"{each:,}" for each in packets],
        "hovertemplate": "%{y}: %{customdata} packets<extra></extra>",
    }
    layout = {
        "height": 120 + (_BAR + 8) * len(names),
        "showlegend": False,
        "xaxis": {"title": {"text": "packets"}, "tickformat": "~s", "nticks": 6},
        "yaxis": {"type": "category", "autorange": "reversed"},
    }
    return {"data": [trace], "layout": layout}


_LONGEST: Final = 34


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
