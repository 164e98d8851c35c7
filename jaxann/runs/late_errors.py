"""Keeps the error messages of orbax's abandoned background work off the terminal when a save or a restore fails."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
from time import monotonic, sleep
from traceback import clear_frames
from typing import Any

SILENCE = 0.05  # seconds without a message after which the abandoned work counts as ended
PATIENCE = 2.0  # the most seconds to wait for the abandoned work to end
_LOCK = RLock()


@contextmanager
def hush_late_errors() -> Iterator[None]:
    """Drops the messages that follow when orbax's work inside the `with` block fails; the error itself is raised.

    orbax reads and writes many arrays at once. When one of them fails, orbax raises the error, closes its event loop
    and abandons the work on the others. The threads of that work then fail on the closed loop, and its tasks fail when
    they are garbage collected, which Python reports to `sys.unraisablehook`. The hook that is set here passes on every
    report that does not come from orbax. It is in place only inside the block and, after an error, until the abandoned
    work has ended, which takes about 0.1 s.
    """
    _filter_logs()
    with _LOCK:  # if two threads exchanged the hook at the same time, the wrong one could stay in place
        previous, latest = sys.unraisablehook, monotonic()

        def hook(unraisable: Any) -> None:
            nonlocal latest
            latest = monotonic()
            if not _comes_from_orbax(unraisable):
                previous(unraisable)

        sys.unraisablehook = hook
        try:
            yield
        except Exception as error:
            _clear_frames(error)
            gc.collect()
            latest = monotonic()
            end = latest + PATIENCE
            while monotonic() < min(latest + SILENCE, end):
                sleep(SILENCE / 5)
            raise
        finally:
            sys.unraisablehook = previous


def _clear_frames(error: BaseException | None) -> None:
    """Clears the local variables that an error and its causes keep alive, so that orbax's tasks can be collected."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _comes_from_orbax(unraisable: Any) -> bool:
    source = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
    return "orbax" in source or "Event loop is closed" in str(unraisable.exc_value)


@cache
def _filter_logs() -> None:
    """Drops the tracebacks of orbax's threads and tasks from the logs, where some appear long after the failure."""
    logging.getLogger("absl").addFilter(lambda record: "_SignalingThread" not in str(record.msg))
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
