"""The command line as ``python -m histomake``; the console script ``histomake`` is the same."""

import sys

from histomake.cli import main

if __name__ == "__main__":
    sys.exit(main())
