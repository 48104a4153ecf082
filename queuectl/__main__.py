"""``python -m queuectl``."""

import sys

if __name__ == "__main__":
    try:
        from queuectl.main import main
    except KeyboardInterrupt:  # sooner than anything could be done
        sys.exit(130)
    sys.exit(main())
