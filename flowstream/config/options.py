"""Options as fields of Structs: spelling, metavar, help text, limits and default.

A field is an option when ``described`` made its ``Meta``. Its name gives the
spelling on the command line and in TOML (``option_name``), its type the limits.
"""

from __future__ import annotations

import reprlib
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from flowstream.errors import UsageError
from flowstream.urls import without_secret


def option_name(field: str) -> str:
    """Return the spelling of a Struct's field as an option and as a TOML key."""
    singular = {"interfaces": "interface", "interface_kinds": "interface-kind"}
    return singular.get(field, field.removesuffix("_s").replace("_", "-"))


def described(
    metavar: str,
    description: str,
    *,
    short: str | None = None,
    each: str | None = None,
    **limits: Any,
) -> Meta:
    """Describe an option. ``title`` says what it takes where the limits do not.

    ``each`` says so of one element of a list, as the command line has it.
    """
    extra = {"metavar": metavar, "short": short, "each": each}
    return Meta(description=description, extra=extra, **limits)


class Option(msgspec.Struct, frozen=True):
    """One option: spelling, help text, limits, default. ``field`` is the Struct's field."""

    field: str
    name: str
    short: str | None
    type: Any
    default: Any
    metavar: str
    description: str
    allowed: str
    each_allowed: str | None

    @property
    def is_switch(self) -> bool:
        """Whether the command line gives it no value: naming it makes it true."""
        return self.type.__origin__ is bool

    @property
    def is_list(self) -> bool:
        """Whether the command line may repeat it."""
        return get_origin(self.type.__origin__) is tuple

    @property
    def meaning(self) -> str:
        """Description with the limits, for help texts."""
        if self.is_switch or self.allowed in self.description:
            return self.description
        return f"{self.description}; {'in TOML ' if self.is_list else ''}{self.allowed}"

    def parse(self, value: object, *, where: str | None = None) -> Any:
        """Check one value, text from the command line or typed from a file.

        Raises ``UsageError`` naming ``where`` (default ``--OPTION``) and what is allowed.
        """
        # Text stands for a number only on the command line: a file has types.
        strict = where is not None
        try:
            return msgspec.convert(value, self.type, strict=strict)
        # UnicodeError: octets of the command line that are not UTF-8.
        except (msgspec.ValidationError, UnicodeError) as err:
            wrong, allowed = (value, self.allowed) if where else self._wrong(value)
            text = f"{_shown(wrong)} is not allowed; it takes {allowed}"
            raise UsageError(f"{where or f'--{self.name}'}: {text}") from err

    def _wrong(self, value: object) -> tuple[object, str]:
        """What is wrong on the command line, and what is allowed: of a list, the first element."""
        if isinstance(value, list) and self.each_allowed:
            for each in value:
                try:
                    msgspec.convert([each], self.type)
                except (msgspec.ValidationError, UnicodeError):
                    return each, self.each_allowed
        return value, self.allowed


def options_of(kind: type[msgspec.Struct]) -> dict[str, Option]:
    """Return the options of a Struct by field, its own before those that it inherits."""
    structs = [each for each in kind.__mro__ if issubclass(each, msgspec.Struct)][:-1]

    def depth(field: msgspec.structs.FieldInfo) -> int:
        return sum(field.name in each.__struct_fields__ for each in structs)

    options = map(_option, sorted(msgspec.structs.fields(kind), key=depth))
    return {option.field: option for option in options if option}


def _option(field: msgspec.structs.FieldInfo) -> Option | None:
    kind = _described_type(field.type)
    if kind is None:
        return None
    meta = kind.__metadata__[0]
    return Option(
        field=field.name,
        name=field.encode_name,
        short=meta.extra["short"],
        type=kind,
        default=None if field.required else field.default,
        metavar=meta.extra["metavar"],
        description=meta.description,
        allowed=meta.title or _limits(kind.__origin__, meta),
        each_allowed=meta.extra["each"],
    )


def _described_type(kind: Any) -> Any:
    """Return the part of ``kind`` that ``described`` describes, of "… | None" the first."""
    for part in (kind, *get_args(kind)):
        meta = getattr(part, "__metadata__", (None,))[0]
        if isinstance(meta, Meta) and meta.extra is not None:
            return part
    return None


def _limits(kind: Any, meta: Meta) -> str:
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        *most, last = get_args(kind)
        return f"{', '.join(most)} or {last}"
    number = "a whole number" if kind is int else "a number of seconds"
    return f"{number} from {meta.ge} to {meta.le}"


def _shown(value: object) -> str:
    """Show a wrong value in a few words, whatever its size."""
    if isinstance(value, dict):
        return "a table"
    return reprlib.repr(without_secret(value) if isinstance(value, str) else value)
