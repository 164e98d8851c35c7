"""Train a network on a table of data, its gradient written by hand.

Without arguments: the derivation's own network, 4-50-20-10-3 with sigmoids, softmax and cross-entropy, on Iris.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """The signals that were to end the run, Ctrl-C's and SIGTERM; it is to end itself. A second one ends it at once."""
    signals: list[int] = []

    def hear(number, frame):
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
