"""What a run is asked to do: one frozen ``RunConfig``, from the command line and a file.

``RunConfig`` is the single table of options: its fields carry the limits, the
help text and, by ``option_name``, the spelling on the command line and in the
TOML file. The command line is stronger than the file, the file stronger than
the default. Every mistake is a ``UsageError`` that names the key and what it takes.
"""

from __future__ import annotations

import difflib
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from flowstream.config.toml import read_table
from flowstream.errors import UsageError
from flowstream.urls import StdoutUrl, parse_url, without_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTERFACE_NAME = Annotated[
    # IFNAMSIZ is 16 with the closing NUL; dev_valid_name in net/core/dev.c names the rest.
    str,
    Meta(pattern=r"\A(?!\.{1,2}\Z)[^/:\s\0]{1,15}\Z"),
]


def option_name(field: str) -> str:
    """Give the spelling of a ``RunConfig`` field as option and as TOML key."""
    return {"interfaces": "interface"}.get(field, field.removesuffix("_s").replace("_", "-"))


def _meta(metavar: str, description: str, **limits: Any) -> Meta:
    """Describe one option: ``title`` says what it takes where limits do not."""
    return Meta(description=description, extra={"metavar": metavar}, **limits)


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, rename=option_name):
    """One run of the agent. Names ending in ``_s`` are seconds.

    The constructor checks contradictions between fields (``UsageError``); the
    limits of single fields are checked by ``load`` and ``parse_option``.
    """

    interfaces: Annotated[
        tuple[_INTERFACE_NAME, ...],
        _meta(
            "IFACE",
            "interface to attach to; give it again for more",
            title='a list such as ["eth0"] of names of 1 to 15 characters',
            min_length=1,
        ),
    ]
    program: Annotated[
        Literal["flow", "counter"],
        _meta("PROGRAM", "flow publishes flow records, counter only counts per source"),
    ] = "flow"
    mode: Annotated[
        Literal["auto", "native", "generic", "offload"],
        _meta("MODE", "how to attach; auto takes native, else generic, and says which"),
    ] = "auto"
    netns: (
        Annotated[
            str,
            _meta(
                "NAME",
                "network namespace of the interfaces, as ip netns names it",
                title="a name of ip netns list",
                pattern=r"\A(?!\.{1,2}\Z)[^/\s\0]{1,255}\Z",
            ),
        ]
        | None
    ) = None
    sink: Annotated[
        str,
        _meta(
            "URL",
            "where records go: kafka://HOST:PORT[,HOST:PORT...], file:DIR or stdout:",
            title="kafka://HOST:PORT[,HOST:PORT...], file:DIR or stdout:",
            min_length=1,
        ),
    ] = "file:flowstream-recording"
    format: Annotated[
        Literal["json", "msgpack", "protobuf", "avro"],
        _meta("FORMAT", "how records are written; avro needs a registry"),
    ] = "json"
    names: Annotated[
        Literal["goflow2", "ecs", "netobserv"],
        _meta("NAMES", "names of the fields in JSON; only goflow2 can be audited"),
    ] = "goflow2"
    community_id: Annotated[bool, _meta("", "add the Community ID of each flow")] = False
    registry: (
        Annotated[
            str,
            _meta(
                "URL",
                "schema registry (Confluent's API) for protobuf and avro",
                title="http://HOST:PORT or https://HOST:PORT",
                pattern=r"\Ahttps?://[^\s,]+\Z",
            ),
        ]
        | None
    ) = None
    interval_s: Annotated[
        float,
        _meta("SECONDS", "time between two records of a lasting flow", ge=0.1, le=3600),
    ] = 5.0
    max_flows: Annotated[
        int,
        _meta("N", "flows that the table holds, all interfaces together", ge=16, le=16_777_216),
    ] = 131_072
    sampling: Annotated[int, _meta("N", "look at one packet in N", ge=1, le=2**32 - 1)] = 1
    counters_period_s: Annotated[
        float,
        _meta("SECONDS", "time between two counters records", ge=0.1, le=3600),
    ] = 1.0
    partitions: Annotated[
        int,
        _meta("N", "partitions of a topic that has to be created", ge=1, le=10_000),
    ] = 6
    duration_s: (
        Annotated[
            float,
            _meta("SECONDS", "stop by itself after this time", ge=0.1, le=1_000_000_000),
        ]
        | None
    ) = None
    topic_prefix: Annotated[
        str,
        _meta(
            "PREFIX",
            "the topics are PREFIX.flows, PREFIX.new_flows and PREFIX.counters",
            # Kafka: 249 characters of this set, here with room for ".new_flows".
            title="1 to 239 of the characters a-z A-Z 0-9 . _ -",
            pattern=r"\A[a-zA-Z0-9._-]{1,239}\Z",
        ),
    ] = "flowstream"
    user: Annotated[
        str,
        _meta(
            "USER",
            "name or number of the user that the agent becomes once attached",
            title="a user's name or number as text",
            pattern=r"\A[^\s:\0]{1,256}\Z",
        ),
    ] = "nobody"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _meta("LEVEL", "least important message to log"),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        _meta("FORMAT", "auto is console on a terminal and JSON lines elsewhere"),
    ] = "auto"
    shutdown_timeout_s: Annotated[
        float,
        _meta("SECONDS", "time that the end of a run may take", ge=0.1, le=3600),
    ] = 10.0

    def __post_init__(self) -> None:
        for name in self.interfaces:
            if self.interfaces.count(name) > 1:
                raise UsageError(f"interface: {name} is named more than once")
        check_sink(self.sink, self.format)
        check_format(self.format, self.names, self.registry)


def check_sink(sink: str, record_format: str) -> None:
    """Raise ``UsageError`` when the URL names no sink or that sink cannot take the format."""
    if isinstance(parse_url(sink), StdoutUrl) and record_format != "json":
        raise UsageError(
            f"format: {record_format} is binary and the sink stdout: takes lines of text; "
            "use format json or another sink"
        )


def check_format(record_format: str, names: str = "goflow2", registry: str | None = None) -> None:
    """Raise ``UsageError`` when format, names and registry do not go together."""
    if record_format == "avro" and registry is None:
        raise UsageError("format: avro can only be read with its schema; give a registry too")
    if record_format in ("json", "msgpack") and registry is not None:
        raise UsageError(
            f"registry: {record_format} needs none; leave it out or use format protobuf or avro"
        )
    if record_format != "json" and names != "goflow2":
        raise UsageError(f"names: {names} are names in JSON and the format is {record_format}")


class Option(msgspec.Struct, frozen=True):
    """One field of ``RunConfig`` as an option: spelling, help, limits, default."""

    field: str
    name: str
    type: Any
    default: Any
    metavar: str
    description: str
    allowed: str

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value on the command line: naming it makes it true."""
        return self.default is False


def _option(field: msgspec.structs.FieldInfo) -> Option:
    # Of "Annotated[…] | None" the part that can be given.
    kind = next((t for t in get_args(field.type) if get_origin(t) is Annotated), field.type)
    inner, meta = kind.__origin__, kind.__metadata__[0]
    return Option(
        field=field.name,
        name=field.encode_name,
        type=kind,
        default=None if field.required else field.default,
        metavar=meta.extra["metavar"],
        description=meta.description,
        allowed=meta.title or _limits(inner, meta),
    )


def _limits(kind: Any, meta: Meta) -> str:
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        *most, last = get_args(kind)
        return f"{', '.join(most)} or {last}"
    what = "a whole number" if kind is int else "a number of seconds"
    return f"{what} from {meta.ge} to {meta.le}"


OPTIONS: Final[Mapping[str, Option]] = {
    option.field: option for option in map(_option, msgspec.structs.fields(RunConfig))
}
"""Every option by its field's name, in the order of the help text."""

_BY_NAME: Final = {option.name: option for option in OPTIONS.values()}
_NAMES: Final = ", ".join(_BY_NAME)


def parse_option(field: str, value: object, *, where: str | None = None) -> Any:
    """Check one value, text from the command line or typed from a file.

    Raises ``UsageError`` naming ``where`` (default ``--OPTION``) and what is allowed.
    """
    option = OPTIONS[field]
    # Text stands for a number only on the command line: a file has types.
    strict = where is not None
    try:
        return msgspec.convert(value, option.type, strict=strict)
    except msgspec.ValidationError as err:
        where = where or f"--{option.name}"
        raise UsageError(
            f"{where}: {_shown(value)} is not allowed; it takes {option.allowed}"
        ) from err


def _shown(value: object) -> str:
    """Show a wrong value in a few words, whatever its size."""
    if isinstance(value, dict):
        return "a table"
    return reprlib.repr(without_secret(value) if isinstance(value, str) else value)


def load(given: Mapping[str, object], file: str | Path | None = None) -> RunConfig:
    """Merge what the command line gave with a configuration file and the defaults.

    ``given`` maps field names to texts (``interfaces`` to a list of texts); None
    and names that are no option's are passed over, so that ``vars()`` of a parsed
    command line will do. Raises ``UsageError``.
    """
    values = {} if file is None else _read(Path(file))
    for field in OPTIONS:
        if given.get(field) is not None:
            values[field] = parse_option(field, given[field])
    if "interfaces" not in values:
        raise UsageError(
            'an interface is needed: -i IFACE, or interface = ["IFACE"] in the configuration file'
        )
    return RunConfig(**values)


def _read(file: Path) -> dict[str, Any]:
    """Read a TOML file into checked values by field name."""
    values = {}
    for key, value in read_table(file).items():
        option = _BY_NAME.get(key)
        if option is None:
            raise UsageError(f"{file}: {_unknown(key)}")
        values[option.field] = parse_option(option.field, value, where=f"{file}: {option.name}")
    return values


def _unknown(key: str) -> str:
    what = f"{reprlib.repr(key)} is no option"
    near = difflib.get_close_matches(key, _BY_NAME, n=1)
    return f"{what}; did you mean {near[0]}?" if near else f"{what}; there are: {_NAMES}"
