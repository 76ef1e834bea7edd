"""Measurements on this machine: ``python -m bench [SECTION…]``, as root.

Machines are shared and noisy. Cases that are compared are therefore measured in
turn, round by round; the table shows the fastest sample and the median of every
case, and ratios compare like with like. Broker, devices and traffic are those of
the tests.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
