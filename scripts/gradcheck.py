"""Checks handwritten gradients: the same program as `jaxann gradcheck`."""

import sys

from jaxann.cli.gradcheck import main

if __name__ == "__main__":
    sys.exit(main())
