"""Trains a network on a table: the same program as `jaxann train`."""

import sys

import python_version  # noqa: F401 - before jaxann, which an older Python cannot import

from jaxann.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
