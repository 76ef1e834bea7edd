"""Many cases in one test: every difference is listed under the case's name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from packets.reference import FlowKey, Reading, Refusal


def difference(found: Reading | Refusal, expected: Reading | Refusal) -> str | None:
    """Fields that differ, each with what was found and what was expected; None when none does."""
    if isinstance(found, str) or isinstance(expected, str):
        return None if found == expected else f"{found}, expected {expected}"
    fields = (field.name for field in dataclasses.fields(expected))
    differing = [
        f"{name} {getattr(found, name)!r}, expected {getattr(expected, name)!r}"
        for name in fields
        if getattr(found, name) != getattr(expected, name)
    ]
    return "; ".join(differing) or None


def differing(
    found: Mapping[FlowKey, Reading], expected: Mapping[FlowKey, Reading]
) -> Iterator[str]:
    """Yield a line for each flow that differs, or that one side lacks."""
    for key in found.keys() | expected.keys():
        if key not in expected:
            yield f"{key}: not expected"
        elif key not in found:
            yield f"{key}: missing"
        elif found[key] != expected[key]:
            yield f"{key}: {difference(found[key], expected[key])}"


def differences(cases: Iterable[str], compare: Callable[[str], str | None]) -> list[str]:
    """Compare every case, whatever the others do; return a line for each that differs.

    ``compare`` returns the difference of one case, or raises AssertionError.
    """
    lines = []
    for name in cases:
        try:
            found = compare(name)
        except AssertionError as err:
            found = f"AssertionError {err}"
        if found is not None:
            lines.append(f"{name}: {found}")
    return lines
