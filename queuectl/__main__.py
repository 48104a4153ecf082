"""``python -m queuectl``."""

import sys

from queuectl.main import main

if __name__ == "__main__":
    sys.exit(main())
