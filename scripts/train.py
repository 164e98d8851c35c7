"""Trains a network on a table: the same program as `jaxann train`."""

import sys

from jaxann.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
