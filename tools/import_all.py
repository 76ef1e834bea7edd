"""Imports every module of flowstream, so that Python compiles what its commands use.

PYTHONPYCACHEPREFIX=DIR python import_all.py    # in the build of the image
"""

import contextlib
import importlib
import pkgutil

import flowstream

for module in pkgutil.walk_packages(flowstream.__path__, "flowstream."):
    # Some are programs, or need an extra that the image does not have.
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
