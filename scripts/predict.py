"""Predicts with a run's best parameters: the same program as `jaxann predict`."""

import sys

from jaxann.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
