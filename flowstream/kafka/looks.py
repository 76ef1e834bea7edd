"""Results of the steps that a client of Kafka takes; imports no Kafka library."""

from __future__ import annotations

import enum
import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

OTHER_PORT: Final = "use the port of a Kafka listener"
# What a peer says is shown, but not at any length.
_TEXTS: Final = reprlib.Repr()
_TEXTS.maxstring = 400


class Step(enum.StrEnum):
    """The steps of a client, in their order."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "TLS"
    SASL = "SASL"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a step failed, in words that follow the address, and the remedy.

    ``lasting``: it stays until a setting or a certificate is changed.
    """

    text: str
    remedy: str
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Look:
    """Result of one step: a text or the fault."""

    step: Step
    result: str | Fault


@dataclass(slots=True)
class Walk:
    """The steps at one address.

    ``brokers`` are the addresses that the cluster advertises; ``days_left`` those of
    the broker's certificate, None without TLS.
    """

    address: str
    looks: list[Look] = field(default_factory=list)
    brokers: tuple[str, ...] = ()
    days_left: int | None = None

    @property
    def fault(self) -> Fault | None:
        """The fault that ended it."""
        result = self.looks[-1].result
        return result if isinstance(result, Fault) else None


def shown(text: object) -> str:
    """Return what a peer said, in one line of limited length."""
    return _TEXTS.repr(str(text))[1:-1]


def listed(names: Iterable[object]) -> str:
    """Return names that a peer gave, in one line of limited length."""
    return shown(", ".join(sorted(map(str, names))))
