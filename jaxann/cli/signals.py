"""Signals that end a program: Ctrl-C (SIGINT), SIGTERM, and SIGHUP of a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects the signals that ask the program to end, so that it can end in an orderly way.

    A second signal of the same kind ends the process at once. SIGHUP stays ignored if it was ignored before, as it is
    under nohup.

    Yields:
        The numbers of the signals received so far, in a list that grows.
    """
    signals: list[int] = []

    def collect(number, frame):
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has no such signal
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, collect) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def exit_at_interrupt() -> Iterator[None]:
    """Lets Ctrl-C end the process at once, without a traceback, as long as the program has nothing to report."""
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
