"""Trains many networks on one table: the same program as `jaxann sweep`."""

import sys

from jaxann.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
