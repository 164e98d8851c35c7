"""Ends the importing script with a sentence if Python is older than jaxann needs, because the import would fail."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    print("jaxann needs Python 3.11 or newer, got " + sys.version.split()[0], file=sys.stderr)
    sys.exit(2)
