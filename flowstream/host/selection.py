"""Which interfaces of a host are observed: a pure function of their facts.

Patterns are names, altnames, or globs of them, as in a shell (``*``, ``?``, ``[a-z]``, upper and
lower case differ). One that begins with ``!`` excludes. ``[*]``, ``[?]``, ``[[]`` and, at the
beginning, ``[!]`` stand for the character itself. Kinds are ``physical``, ``virtual``, ``all``, or
one of the kernel such as ``veth``.
"""

from __future__ import annotations

import errno
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from flowstream.errors import KernelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowstream.host.links import LinkFacts

PHYSICAL: Final = "physical"
_EXCLUDES: Final = "!"
_LITERAL: Final = "[!]"
_GLOB: Final = frozenset("*?[")


class Selection:
    """Chooses interfaces by patterns and kinds: of both that are given, one each must hold.

    With no kind and no pattern but excluding ones, the physical interfaces are chosen.
    ``exact_names`` are the patterns that name one interface. ``UsageError`` when one of them
    is excluded.
    """

    def __init__(self, patterns: Sequence[str] = (), kinds: Sequence[str] = ()) -> None:
        excluding = [each for each in patterns if each.startswith(_EXCLUDES)]
        self._patterns = [_literal(each) for each in patterns if each not in excluding]
        self._excluded = {each: _literal(each.removeprefix(_EXCLUDES)) for each in excluding}
        self._kinds = tuple(kinds) or (() if self._patterns else (PHYSICAL,))
        self.exact_names = tuple(each for each in self._patterns if not _GLOB & set(each))
        for name in self.exact_names:
            if excluded_by := self._excluding((name,)):
                raise UsageError(f"interface: {name} is excluded by {excluded_by}")

    def chooses(self, link: LinkFacts) -> bool:
        """Report whether the interface is to be observed."""
        return not self.objection(link)

    def objection(self, link: LinkFacts) -> str:
        """Say in a few words why the interface is not chosen; "" when it is."""
        if excluded_by := self._excluding(link.names):
            return f"excluded by {excluded_by}"
        if self._patterns and not any(_matches(link.names, each) for each in self._patterns):
            return "matches no pattern"
        if self._kinds and not any(_is_of(link, kind) for kind in self._kinds):
            return f"{_kind_of(link)}, not {' or '.join(self._kinds)}"
        return ""

    def named(self, link: LinkFacts) -> list[str]:
        """Return the exact names that are names of the interface."""
        return [name for name in self.exact_names if name in link.names]

    def rank(self, link: LinkFacts) -> int:
        """Return the position of the first exact name of the interface; without one, the last."""
        names = self.exact_names
        return min(map(names.index, self.named(link)), default=len(names))

    def require_named(self, there: Mapping[str, Collection[LinkFacts]]) -> None:
        """Check that each exact name is one of a chosen interface, and no two are of the same.

        ``there`` has the interfaces by the label of their network namespace; one namespace
        with the name suffices. Raises ``KernelError`` that lists the interfaces that there
        are, and ``UsageError``.
        """
        links = [link for some in there.values() for link in some]
        for name in self.exact_names:
            objections = [self.objection(link) for link in links if name in link.names]
            if not objections:
                text = f"no interface {name!r}; there are: {_listed(there)}"
                raise KernelError(text, errno.ENODEV)
            if all(objections):
                raise UsageError(f"interface: {name} is {objections[0]}")
        for link in links:
            if len(named := self.named(link)) > 1:
                raise UsageError(f"interface: {named[1]} is the same interface as {named[0]}")

    def _excluding(self, names: Sequence[str]) -> str:
        return next((text for text, each in self._excluded.items() if _matches(names, each)), "")


def _listed(there: Mapping[str, Collection[LinkFacts]]) -> str:
    lists = {label: ", ".join(sorted(link.name for link in some)) for label, some in there.items()}
    if len(lists) == 1:
        return next(iter(lists.values()))
    return "; ".join(f"{names} ({label})" for label, names in lists.items())


def _literal(pattern: str) -> str:
    """Return a pattern whose first character may be a ``!`` that fnmatch takes as it is."""
    if pattern.startswith(_LITERAL):
        return _EXCLUDES + pattern.removeprefix(_LITERAL)
    return pattern


def _matches(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _is_of(link: LinkFacts, kind: str) -> bool:
    match kind:
        case "all":
            return True
        case "physical":
            return link.physical
        case "virtual":
            return not link.physical
    return link.kind == kind


def _kind_of(link: LinkFacts) -> str:
    return link.kind or (PHYSICAL if link.physical else "virtual")
