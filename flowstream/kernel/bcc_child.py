"""Compiles one kernel program with bcc and prints the object as JSON.

Runs in a short-lived process under an interpreter that has bcc (Debian installs
python3-bpfcc for /usr/bin/python3), while the agent may run in any virtual
environment. It imports nothing of flowstream:

    python3 bcc_child.py SOURCE INCLUDE_DIR SHIM_DIR [DEFINE…]

Standard output: {"programs": {name: hex}, "maps": [...], "byte_order": "little"
or "big"}; standard error: clang's messages. The exit status is 3 when ``import
bcc`` fails or finds another package.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import sys

LAYOUT_PREFIX = "layout_"
FAILED = 1
WRONG_BCC = 3


def tables(bpf: object, lib: ctypes.CDLL) -> list[dict[str, object]]:
    """Describe every map: name, fd, type number, sizes, flags, key and leaf descriptor."""
    module = bpf.module  # type: ignore[attr-defined]
    lib.bpf_num_tables.restype = ctypes.c_size_t
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]

    def ask(what: str, index: int, restype: type = ctypes.c_uint64) -> object:
        function = getattr(lib, what)
        function.restype = restype
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        value = function(module, index)
        return value.decode() if isinstance(value, bytes) else value

    number = ctypes.c_int
    return [
        {
            "name": ask("bpf_table_name", i, ctypes.c_char_p),
            "fd": ask("bpf_table_fd_id", i, number),
            "type": ask("bpf_table_type_id", i, number),
            "max_entries": ask("bpf_table_max_entries_id", i),
            "flags": ask("bpf_table_flags_id", i, number),
            "key_size": ask("bpf_table_key_size_id", i),
            "value_size": ask("bpf_table_leaf_size_id", i),
            "key": json.loads(str(ask("bpf_table_key_desc_id", i, ctypes.c_char_p))),
            "value": json.loads(str(ask("bpf_table_leaf_desc_id", i, ctypes.c_char_p))),
        }
        for i in range(lib.bpf_num_tables(module))
    ]


def programs(bpf: object, lib: ctypes.CDLL) -> list[str]:
    """Names of the programs: functions that are not static."""
    module = bpf.module  # type: ignore[attr-defined]
    lib.bpf_num_functions.restype = ctypes.c_size_t
    lib.bpf_num_functions.argtypes = [ctypes.c_void_p]
    lib.bpf_function_name.restype = ctypes.c_char_p
    lib.bpf_function_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    count = lib.bpf_num_functions(module)
    return sorted(lib.bpf_function_name(module, i).decode() for i in range(count))


def main(source: str, include: str, shim: str, *defines: str) -> int:
    """Compile ``source``; see the module's docstring."""
    # Without this bcc requires kernel headers.
    os.environ["BCC_KERNEL_SOURCE"] = shim
    try:
        from bcc import BPF  # noqa: PLC0415
        from bcc.libbcc import lib  # noqa: PLC0415
    except ImportError as err:
        print(  # noqa: T201
            f"no BPF compiler collection in {sys.executable}: {err}", file=sys.stderr
        )
        return WRONG_BCC
    text = pathlib.Path(source).read_text(encoding="utf-8")
    # An undeclared function would become a call to helper -1: only the verifier would
    # notice, with a misleading message.
    flags = ["-DCONFIG_BPF_SYSCALL", "-Werror=implicit-function-declaration"]
    flags += [f"-I{include}", *(f"-D{define}" for define in defines)]
    try:
        bpf = BPF(text=text, cflags=flags)
    except Exception as err:  # noqa: BLE001 - bcc raises nothing more specific
        # clang's and the kernel's messages are on standard error already.
        print(err, file=sys.stderr)  # noqa: T201
        return FAILED
    json.dump(
        {
            "programs": {name: bpf.dump_func(name).hex() for name in programs(bpf, lib)},
            "maps": tables(bpf, lib),
            "byte_order": sys.byteorder,
        },
        sys.stdout,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
