"""Which room may import which; test_architecture.py compares docs/architecture.md with it.

A room is a package directly below ``flowstream``, or a single module there. Imports inside
functions and below TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import flowstream

PACKAGE = Path(flowstream.__file__).parent

ROOMS = {
    room: frozenset(may_import.split())
    for room, may_import in {
        "errors": "",
        "extras": "errors",
        "files": "",
        "compression": "errors extras",
        "streams": "",
        "wording": "",
        "undecodable": "",
        "closing": "",
        "waiting": "",
        "signals": "",
        "log": "wording",
        "progress": "",
        "layouts": "",
        "host": "errors wording undecodable closing",
        "histogram": "",
        "urls": "errors",
        "records": "errors undecodable extras streams layouts",
        "schemas": "errors streams layouts records",
        "accounting": "errors undecodable streams layouts records",
        "messages": "errors streams accounting",
        "kernel": "errors undecodable streams closing layouts host accounting",
        "attacher": "errors undecodable closing host kernel",
        "filtering": "errors wording host kernel",
        "encode": "errors streams layouts records accounting messages",
        "registry": "errors undecodable streams host urls records schemas accounting encode",
        "delivery": "errors streams closing urls accounting messages",
        "kafka": "errors undecodable files compression streams wording closing waiting urls "
        "accounting messages delivery",
        "config": "errors files streams wording host urls accounting kafka",
        "segments": "errors undecodable extras files compression streams wording closing urls "
        "accounting messages delivery",
        "spool": "errors undecodable streams waiting records accounting messages encode delivery "
        "kafka segments",
        "sink": "errors streams urls accounting messages delivery kafka segments",
        "source": "errors extras streams urls messages delivery kafka segments",
        "reading": "errors extras streams wording layouts records accounting messages encode "
        "kafka source",
        "audit": "errors undecodable streams wording progress layouts records accounting messages "
        "encode kafka source reading",
        "report": "errors streams wording closing urls records accounting encode kafka reading "
        "audit",
        "top": "errors undecodable streams wording layouts host records accounting messages "
        "encode kafka source reading",
        "recording": "errors extras streams wording progress urls layouts records accounting "
        "messages encode delivery kafka segments sink source reading",
        "metrics": "errors files streams closing host histogram urls records accounting delivery",
        "pipeline": "streams layouts histogram records accounting kernel encode config sink",
        "following": "errors waiting host accounting kernel config pipeline",
        "chain": "errors streams closing waiting layouts host accounting kernel config pipeline",
        "agent": "errors files streams wording closing waiting log layouts host histogram urls "
        "accounting messages kernel attacher filtering encode registry delivery kafka config "
        "segments spool sink metrics pipeline following chain",
        "check": "errors streams wording closing host urls accounting config kernel filtering "
        "kafka",
        "pcap": "errors files streams wording closing signals progress layouts host urls config "
        "records accounting messages kernel filtering encode registry kafka sink pipeline agent",
        "testing": "errors extras streams wording layouts urls records accounting messages kernel "
        "encode kafka config segments sink source reading recording",
        "detach": "errors wording layouts host accounting kernel",
        "demo": "errors streams host records kafka source reading audit",
        "cli": "errors extras streams wording signals log progress host urls records schemas "
        "messages kafka config reading audit report top recording attacher agent check pcap "
        "detach demo",
    }.items()
}
"""Room: the rooms that its modules may import; every room stands below those."""

LIBRARIES = {
    "aiokafka": ("kafka", "segments", "testing"),
    "argparse": ("cli",),
    "bcc": ("kernel.bcc_child",),
    "cramjam": ("compression",),
    "ctypes": (
        "kernel",
        "filtering.libpcap",
        "host.privileges",
        "host.namespaces",
        "host.seccomp",
    ),
    "fastavro": ("records.avro_form",),
    "h11": ("metrics",),
    "prometheus_client": ("metrics",),
    "google": ("records.protobuf_form",),
    "plotly": ("report.page",),
    "pyroute2": ("host.drivers",),
    "pyarrow": ("reading.parquet",),
    "pytest": ("testing.plugin",),
    "yacryptopan": ("recording.anonymise",),
    "rich": ("progress", "audit.tables", "demo"),
    "textual": ("top.app",),
    "tomllib": ("config.toml",),
    "uvloop": ("agent", "pcap", "cli"),
}
"""Library, by the first name of its package: the rooms and modules that own it."""

LAZY = {
    "cli": "--help and usage errors are quick; a command imports its room",
    "sink": "the URL chooses",
    "source": "the URL chooses",
    "recording.copying": "Linux only",
    "pcap": "the URL chooses",
    "kafka.oauth": "http and email, only with a token endpoint",
    "segments.batches": "the agent attaches before it imports aiokafka",
    "segments.encoding": "the agent attaches before it imports aiokafka",
    "compression": "an extra",
    "records.binary": "an extra",
    "reading.formats": "numpy and pyarrow are extras",
    "registry": "only with a registry",
    "top.session": "the screen's library, where a screen is shown",
    "agent.sinks": "only with a spool",
    "agent.run": "only with a filter; only with metrics",
    "attacher.attaching": "only with a filter; only on kernels without TCX",
    "testing.plugin": "pytest loads it in every project of the environment",
    "kernel.bcc_child": "only its main() runs under bcc's interpreter",
}
"""Rooms and modules that may import inside functions, and why."""

EVERYWHERE = {"msgspec", "numpy", "structlog"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORT = (ast.Import, ast.ImportFrom)
IMPURE = ("asyncio", "datetime", "logging", "structlog", "time")
PURE = ("encode", "layouts", "records")
ON_DEMAND = (
    "flowstream.filtering",
    *(f"flowstream.kernel.{name}" for name in ("packet_filter", "classic_bpf", "filter_code")),
    *(f"flowstream.kernel.{name}" for name in ("packet_loads", "assembler", "clsact")),
    *("flowstream.attacher.leases", "flowstream.host.tc_messages"),
)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """Absolute names of what a module imports, of names in a module the module."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


IMPORTS = {module: imported(module) for module in MODULES}
OWN_IMPORTS = {module: names & MODULES.keys() for module, names in IMPORTS.items()}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(module: str) -> str:
    """Room of a module; the package itself and ``python -m flowstream`` belong to none."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0]


def rooms_imported() -> dict[str, set[str]]:
    """Room: the other rooms that its modules import."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, names in OWN_IMPORTS.items():
        if (room := room_of(module)) in found:
            found[room] |= {room_of(name) for name in names} - {room, ""}
    return found


def users_of(library: str) -> set[str]:
    return {module for module, names in IMPORTS.items() if any(within(n, library) for n in names)}


def test_modules_and_imports_are_found():
    assert {"flowstream.agent.run", "flowstream.kernel.flow", "flowstream.errors"} <= set(MODULES)
    assert "aiokafka.errors" in IMPORTS["flowstream.kafka.supervisor"]
    assert "flowstream.kernel.flow" in OWN_IMPORTS["flowstream.agent.run"]
    assert {"cli", "kernel"} <= rooms_imported().keys()


def test_every_module_belongs_to_a_room():
    assert {room_of(module) for module in MODULES} - {"", "__main__"} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_rooms_below_it(room):
    above = list(ROOMS)[list(ROOMS).index(room) :]
    assert not ROOMS[room] & set(above), "the table is in no order"
    forbidden = {
        f"{module} → {name}"
        for module, names in OWN_IMPORTS.items()
        for name in names
        if room_of(module) == room and room_of(name) not in {room, "", *ROOMS[room]}
    }
    assert forbidden == set()


def test_no_module_imports_itself_through_others():
    tuple(TopologicalSorter(OWN_IMPORTS).static_order())


def test_no_room_imports_itself_through_others():
    tuple(TopologicalSorter(rooms_imported()).static_order())


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_is_used_by_its_owners_only(library):
    owners = [f"flowstream.{owner}" for owner in LIBRARIES[library]]
    users = users_of(library)
    assert {module for module in users if not within(module, *owners)} == set()
    assert [owner for owner in owners if not any(within(user, owner) for user in users)] == []


def test_every_library_is_in_a_table():
    first_names = {name.partition(".")[0] for names in IMPORTS.values() for name in names}
    foreign = first_names - sys.stdlib_module_names - {"flowstream"}
    assert foreign == (LIBRARIES.keys() - sys.stdlib_module_names) | EVERYWHERE


def imports_inside_a_function(module: str) -> bool:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))
    return any(isinstance(node, IMPORT) for function in functions for node in ast.walk(function))


def test_only_boundaries_import_inside_functions():
    lazy = {module for module in MODULES if imports_inside_a_function(module)}
    allowed = {f"flowstream.{name}" for name in LAZY}
    assert {module for module in lazy if not within(module, *allowed)} == set()
    assert {name for name in allowed if not any(within(module, name) for module in lazy)} == set()


def test_bcc_child_imports_nothing_of_the_package():
    # It runs under another interpreter, which has no flowstream.
    assert users_of("bcc") == {"flowstream.kernel.bcc_child"}
    assert OWN_IMPORTS["flowstream.kernel.bcc_child"] == set()


def test_the_attacher_imports_only_what_attaching_needs():
    """It reads no configuration or packet, of netlink the answers about filters alone."""
    code = "import sys, flowstream.attacher.process, flowstream.attacher.leases"
    code += ", flowstream.kernel.packet_filter; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    own = {name for name in modules if within(name, "flowstream")} & MODULES.keys()
    rooms = {room_of(name) for name in own} - {""}
    assert rooms == {
        *("errors", "undecodable", "closing", "layouts", "host", "accounting", "kernel"),
        "attacher",
    }
    assert {name for name in own if room_of(name) == "host"} == {
        "flowstream.host",
        *(f"flowstream.host.{name}" for name in ("kernel_version", "namespaces")),
        *(f"flowstream.host.{name}" for name in ("privileges", "seccomp")),
        *(f"flowstream.host.{name}" for name in ("netlink", "route_socket", "tc_messages")),
    }
    foreign = {name.partition(".")[0] for name in modules} & (LIBRARIES.keys() | EVERYWHERE)
    assert foreign == {"ctypes", "msgspec"}


def test_a_run_imports_neither_filters_nor_clsact_until_it_needs_them():
    code = "import sys, flowstream.attacher.process, flowstream.agent.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if within(name, *ON_DEMAND)} == set()
    assert MODULES.keys() >= set(ON_DEMAND)


@pytest.mark.parametrize("room", PURE)
def test_codecs_have_no_loop_log_or_clock(room):
    impure = {
        f"{module} → {name}"
        for module, names in IMPORTS.items()
        for name in names
        if room_of(module) == room and within(name, *IMPURE)
    }
    assert impure == set()
