"""Why a cluster cannot be used, by a look at every address."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.kafka.looks import Fault, Walk, shown
from flowstream.kafka.walk import walk

if TYPE_CHECKING:
    from flowstream.kafka.settings import ClientSettings

# A few brokers of a large cluster are enough to find the fault.
_MOST_BROKERS: Final = 3
_SLOW: Final = Fault("answers, but not in time", "raise request.timeout.ms or look at its load")


class Diagnosis(NamedTuple):
    """The fault at each address with its remedy; ``lasting`` if all of them stay."""

    text: str
    lasting: bool


async def why_unreachable(settings: ClientSettings) -> str:
    """Return the text of ``diagnosed``."""
    return (await diagnosed(settings)).text


async def diagnosed(settings: ClientSettings) -> Diagnosis:
    """Find the fault at each address, within seconds.

    If a broker answers, the addresses that it advertises are tried: clients use those.
    """
    walks = await asyncio.gather(*(walk(settings, each) for each in settings.addresses))
    faults = [each.fault or await _beyond(settings, each) for each in walks]
    text = "; ".join(f"{each.address} {fault}" for each, fault in zip(walks, faults, strict=True))
    return Diagnosis(text, all(fault.lasting for fault in faults))


async def advertised(settings: ClientSettings, walked: Walk, most: int) -> list[Walk]:
    """Walk to brokers that a cluster advertises, up to their first answer."""
    others = [each for each in walked.brokers[:most] if each != walked.address]
    return await asyncio.gather(*(walk(settings, each, as_client=False) for each in others))


async def _beyond(settings: ClientSettings, walked: Walk) -> Fault:
    """Return the fault of a cluster whose broker answers."""
    walks = await advertised(settings, walked, _MOST_BROKERS)
    wrong = [f"{shown(each.address)} ({each.fault.text})" for each in walks if each.fault]
    if not wrong:
        return _SLOW
    text = f"answers, but its advertised.listeners names {'; '.join(wrong)}"
    return Fault(text, "correct advertised.listeners, or make these addresses reachable")
