"""Structures that libbpf and the kernel read and fill.

Source: libbpf 1.1 bpf.h, linux/bpf.h.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, ClassVar


class _Opts(ctypes.Structure):
    """Base of libbpf's option structures: the first field is the structure's size."""

    _fields_: ClassVar[Any] = []

    def __init__(self, **values: Any) -> None:
        super().__init__(sz=ctypes.sizeof(self), **values)


class MapCreateOpts(_Opts):
    """struct bpf_map_create_opts."""

    _fields_: ClassVar[Any] = [
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    ]


class ProgLoadOpts(_Opts):
    """struct bpf_prog_load_opts."""

    _fields_: ClassVar[Any] = [
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_void_p),
    ]


class LinkCreateOpts(_Opts):
    """struct bpf_link_create_opts, up to what XDP and TCX need."""

    _fields_: ClassVar[Any] = [
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    ]


class TestRunOpts(_Opts):
    """struct bpf_test_run_opts."""

    _fields_: ClassVar[Any] = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class MapInfo(ctypes.Structure):
    """struct bpf_map_info, up to the name."""

    _fields_: ClassVar[Any] = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * 16),
    ]


class LinkInfo(ctypes.Structure):
    """struct bpf_link_info of an XDP or TCX link; of the latter is ``attach_type``."""

    _fields_: ClassVar[Any] = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("pad", c_uint32),
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
    ]


class ProgInfo(ctypes.Structure):
    """struct bpf_prog_info, up to the work of the verifier.

    ``verified_insns``: instructions that the verifier processed, on all paths together;
    0 before kernel 5.16.
    """

    _fields_: ClassVar[Any] = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("lengths", c_uint32 * 2),
        ("insns", c_uint64 * 2),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * 16),
        ("others", ctypes.c_uint8 * 136),
        ("verified_insns", c_uint32),
    ]
