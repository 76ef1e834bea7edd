"""Options of ``flowstream run``, from the command line and a TOML file.

The command line takes precedence over the file, the file over the defaults.
Every mistake is a ``UsageError`` that names the key and what is allowed.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from flowstream.config.agent import AgentConfig
from flowstream.config.hooks import attach_modes, check_hook
from flowstream.config.kafka import KAFKA_TABLE, client_of, properties_of
from flowstream.config.options import Option, described, options_of
from flowstream.config.spool import with_spool
from flowstream.config.toml import read_table
from flowstream.errors import UsageError
from flowstream.host.selection import Selection
from flowstream.kafka.properties import PROPERTIES
from flowstream.urls import DirectoryUrl, parse_url
from flowstream.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowstream.config.hooks import AttachModes
    from flowstream.kafka.configuration import Given
    from flowstream.kafka.settings import ClientSettings

_INTERFACE_PATTERN = Annotated[
    # Characters of names: dev_valid_name in net/core/dev.c. ALTIFNAMSIZ is 128 with the NUL.
    str,
    Meta(pattern=r"\A!?(?!\.{1,2}\Z)[^!/:\s\0][^/:\s\0]{0,126}\Z"),
]
_INTERFACE_KIND = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]{1,32}\Z")]
_NETNS = Annotated[
    # A name that begins with pid: is given by its path.
    str,
    Meta(
        pattern=r"\A(pid:[1-9][0-9]{0,6}|(?!\.{1,2}\Z|pid:)[^/\s\0]{1,255}"
        r"|/[^\0-\x1f\x7f]{1,4094})\Z"
    ),
]


class RunConfig(AgentConfig, frozen=True, kw_only=True):
    """One run of the agent. Names ending in ``_s`` are seconds.

    The constructor checks that fields agree with each other (``UsageError``);
    ``load`` also checks the limits of every field.
    """

    interfaces: Annotated[
        tuple[_INTERFACE_PATTERN, ...],
        described(
            "PATTERN",
            "interfaces to observe: a name or a glob; with ! before it, those to leave out; "
            "may be repeated; by default all physical ones",
            short="-i",
            title='a list such as ["eth0", "ens*", "!ens7"]',
            each="a name or a glob, such as eth0, 'ens*' or '!ens7'",
            min_length=1,
        ),
    ] = ()
    interface_kinds: Annotated[
        tuple[_INTERFACE_KIND, ...],
        described(
            "KIND",
            "kind of the interfaces to observe: physical, virtual, all, or one of ip link such "
            "as veth; may be repeated",
            title='a list such as ["physical", "bond"]',
            each="physical, virtual, all, or a kind of ip link such as veth",
            min_length=1,
        ),
    ] = ()
    program: Annotated[
        Literal["flow", "counter"],
        described("PROGRAM", "flow publishes flow records, counter only counts per source"),
    ] = "flow"
    mode: Annotated[
        Literal["auto", "native", "generic", "offload"],
        described("MODE", "attach mode of XDP; auto tries native, then generic, and logs which"),
    ] = "auto"
    direction: Annotated[
        Literal["ingress", "egress", "both"],
        described(
            "DIRECTION",
            "packets to observe: ingress is what an interface receives, egress what it sends",
        ),
    ] = "ingress"
    hook: Annotated[
        Literal["auto", "xdp", "tcx"],
        described(
            "HOOK",
            "where received packets are observed; auto is xdp, and tcx where another XDP program "
            "is attached; what is sent is always observed by tcx",
        ),
    ] = "auto"
    netns: Annotated[
        tuple[_NETNS, ...],
        described(
            "NETNS",
            "network namespace of the interfaces: a name of ip netns, a path or pid:N; may be "
            "repeated; by default the agent's own",
            title='a list such as ["blue", "/run/netns/red", "pid:7"]',
            each="a name of ip netns, a path or pid:N",
            min_length=1,
            max_length=256,
        ),
    ] = ()

    def __post_init__(self) -> None:
        for name in self.interfaces:
            if self.interfaces.count(name) > 1:
                raise UsageError(f"interface: {name} is named more than once")
        Selection(self.interfaces, self.interface_kinds)
        check_hook(self.direction, self.hook, self.mode)
        if self.pin is not None and self.program != "flow":
            raise UsageError(
                f"pin: program {self.program} keeps nothing for a next run; leave it out, or use "
                "--program flow"
            )
        super().__post_init__()

    @property
    def attach_modes(self) -> AttachModes:
        """Modes to attach with, by direction."""
        return attach_modes(self.direction, self.hook, self.mode)


OPTIONS: Final[Mapping[str, Option]] = options_of(RunConfig)
"""Every option by its field's name, in the order of the help text."""

_BY_NAME: Final = {option.name: option for option in OPTIONS.values()}
_NAMES: Final = ", ".join(_BY_NAME)


def load(given: Mapping[str, object]) -> RunConfig:
    """Merge the values of the command line with the defaults; ``ConfigSource`` adds a file.

    ``given`` maps field names to texts (``interfaces`` to a list of texts), as
    ``vars()`` of a parsed command line does; None and other names are ignored.
    Raises ``UsageError``.
    """
    return merged(given, {}, lambda sink: client_of(sink, given))


def merged(
    given: Mapping[str, object],
    values: Mapping[str, Any],
    client: Callable[[str], ClientSettings],
) -> RunConfig:
    """Merge ``given``, as for ``load``, with a file's ``values`` by field and the defaults.

    ``client`` returns the settings of the clients for a sink. Raises ``UsageError``.
    """
    values = dict(values)
    for field, option in OPTIONS.items():
        if given.get(field) is not None:
            values[field] = option.parse(given[field])
    sink = RunConfig(**values).sink
    _check_limits(values, sink)
    return RunConfig(**with_spool(values, sink), kafka=client(sink))


def _check_limits(given: Mapping[str, object], sink: str) -> None:
    """Refuse limits of a recording where none is made: they would limit nothing."""
    if isinstance(parse_url(sink), DirectoryUrl):
        return
    for field in ("recording_size", "recording_age"):
        if field in given:
            raise UsageError(
                f"{OPTIONS[field].name}: limits a recording, and the sink is {sink}; "
                "leave it out or use file:DIR"
            )


def read(file: Path) -> tuple[dict[str, Any], dict[str, Given]]:
    """Read a TOML file into checked values by field name, and the properties of [kafka]."""
    table = read_table(file)
    return values_of(table, file), properties_of(table, file)


def values_of(table: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Check the options in a file's content; return the values by field name."""
    values = {}
    for key, value in table.items():
        if key == KAFKA_TABLE:
            continue
        option = _BY_NAME.get(key)
        if option is None:
            raise UsageError(f"{file}: {_unknown(key)}")
        values[option.field] = option.parse(value, where=f"{file}: {option.name}")
    return values


def _unknown(key: str) -> str:
    hint = did_you_mean(key, _BY_NAME) or f"; known options: {_NAMES}"
    if any(name.partition(".")[0] == key for name in PROPERTIES):
        hint = f"; properties of the Kafka clients stand below [{KAFKA_TABLE}]"
    return f"unknown option {reprlib.repr(key)}{hint}"
