"""Predicts with a run's best parameters: the same program as `jaxann predict`."""

import sys

import python_version  # noqa: F401 - before jaxann, which an older Python cannot import

from jaxann.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
