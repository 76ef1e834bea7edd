"""Runs a module as on a kernel before Linux 6.6, where filters stand for TCX links.

    without_tcx.py PYTHON -m MODULE ARGUMENT...

This interpreter runs it, not the one that is named: so this goes before a command line.
"""

from __future__ import annotations

import runpy
import sys

from flowstream.kernel import features


def _has_no_tcx() -> bool:
    return False


if __name__ == "__main__":
    features.has_tcx = _has_no_tcx  # type: ignore[assignment]
    _, _, _, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
