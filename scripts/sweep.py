"""Trains many networks on one table: the same program as `jaxann sweep`."""

import sys

import python_version  # noqa: F401 - before jaxann, which an older Python cannot import

from jaxann.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
