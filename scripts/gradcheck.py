"""Checks handwritten gradients: the same program as `jaxann gradcheck`."""

import signal
import sys

import python_version  # noqa: F401 - before jaxann, which an older Python cannot import

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback, even while it imports
    from jaxann.cli.main import import_program

    sys.exit(import_program("gradcheck").main())
