"""Checks handwritten gradients: the same program as `jaxann gradcheck`."""

import sys

import python_version  # noqa: F401 - before jaxann, which an older Python cannot import

from jaxann.cli.gradcheck import main

if __name__ == "__main__":
    sys.exit(main())
