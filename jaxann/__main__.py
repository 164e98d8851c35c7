"""`python -m jaxann`: the same program as the command `jaxann`."""

import sys

from jaxann.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
