"""Measurements on this machine: ``python -m bench [SECTION…]``, as root.

Machines are shared and noisy. So what is compared is measured in turn, round by
round; of every case the fastest sample and the median are shown, and ratios are
taken between equals. Broker, devices and traffic are those of the tests.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
