"""Run the ``hatchway`` command as ``python -m hatchway.cli``."""

import signal
import sys

# Ctrl-C while the imports run ends at once, without a traceback through them.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from hatchway.cli import main  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
