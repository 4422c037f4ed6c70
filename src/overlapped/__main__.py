"""`python -m overlapped` is the command `overlapped`."""

import sys

from overlapped.cli import main

if __name__ == "__main__":
    sys.exit(main())
