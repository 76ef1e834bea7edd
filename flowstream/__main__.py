"""``python -m flowstream``."""

import sys

from flowstream.cli.main import main

sys.exit(main())
