"""Run the ``hatchway`` command as ``python -m hatchway.cli``."""

import sys

from hatchway.cli import main

if __name__ == "__main__":
    sys.exit(main())
