"""Constants and layouts that are generated from the C sources."""

from __future__ import annotations

import subprocess
import sys

from flowstream import records
from flowstream.accounting import terms
from flowstream.kernel.records import TEMPLATE
from flowstream.layouts import constants


def test_records_are_read_without_numpy():
    code = "import sys, flowstream.records; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readers_have_the_constants_of_the_kernel_program():
    assert records.SCHEMA_VERSION == constants.SCHEMA_VERSION
    assert records.RecordType is constants.RecordType
    assert records.EndReason is constants.EndReason
    assert [kind.name for kind in records.RecordType] == ["FLOW", "NEW_FLOW", "COUNTERS"]


def test_the_ledgers_reasons_are_those_of_the_kernel_program():
    assert list(terms.NO_FLOW) == [reason.name.lower() for reason in constants.NoFlowReason]


def test_a_record_has_as_many_elements_as_its_header_says():
    names = TEMPLATE.dtype.names
    fields = [name for name in names if f"tag_{name}" in names]
    assert TEMPLATE["array_fields"][0] == constants.FLOW_RECORD_FIELDS == len(fields)
