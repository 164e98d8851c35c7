"""The end of a search that may take long."""

from __future__ import annotations

import time


class Deadline:
    """A time after which no further diagnosis is tried.

    The seconds count from the first question whether they are over, so that the time before the first diagnosis is
    free.

    Args:
        seconds: How long the diagnoses of one report may take.
    """

    def __init__(self, seconds: float | int) -> None:
        self.seconds = seconds
        self._end: float | None = None

    @property
    def end(self) -> float:
        """The end, in seconds of `time.monotonic`."""
        if self._end is None:
            self._end = time.monotonic() + self.seconds
        return self._end

    def is_over(self) -> bool:
        """Returns whether the time is over."""
        return time.monotonic() > self.end
