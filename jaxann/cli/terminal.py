"""Safe output to a terminal: streams may be closed, full or in ASCII, and text could steer the terminal."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

from jaxann.cli.errors import print_line
from jaxann.nn.text import make_printable

COLOR = re.compile("(\x1b\\[[0-9;]*m)")  # the escape sequences that change the color and weight of text
# Warnings for programmers, and those about numbers, which the programs check themselves.
UNSHOWN = (DeprecationWarning, FutureWarning, ImportWarning, PendingDeprecationWarning, ResourceWarning, RuntimeWarning)


class Stream:
    """Standard output or standard error, made safe: writing to it never fails and never steers the terminal.

    Characters that the terminal's encoding lacks are written as escapes, and so are those that `make_printable`
    replaces because they would steer the terminal. If writing fails, all further text is dropped, so that a program
    still stores its result.

    Args:
        stream: The original stream; None if it was closed before the program began.
        keep: The control characters that are written as they are.

    Attributes:
        is_closed: Whether the stream was closed before the program began.
        failure: Why the stream could not be written; None if everything was written.
        colored: Whether escape sequences for colors are written as they are.
    """

    def __init__(self, stream: Any, keep: str) -> None:
        self.is_closed = stream is None or getattr(stream, "closed", False)
        self.failure: OSError | None = None
        self.colored = False
        self._keep = keep
        self._stream: Any = stream
        if self.is_closed:
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - `close` closes it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text for people, with escapes for the characters that must not or cannot be written as they are."""
        parts = COLOR.split(text) if self.colored else [text]
        shown = "".join(
            part if i % 2 else make_printable(part, self._keep)  # `split` puts a color at every odd index
            for i, part in enumerate(parts)
        )
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._try(lambda: self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding)))
        return len(text)

    def write_exactly(self, text: str) -> None:
        """Writes text for programs, exactly as it is.

        Raises:
            ValueError: If the encoding of the stream lacks a character of the text.
        """
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError as error:
            lacking = make_printable(text[error.start])
            raise ValueError(f"expected stdout in UTF-8, got {encoding}, which lacks the character {lacking}") from None
        self._try(lambda: self._stream.write(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes texts one after another, as `write` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what is still in memory."""
        self._try(lambda: self._stream.flush())

    def close(self) -> None:
        """Writes what is still in memory, and closes the file that stands in for a closed stream."""
        self.flush()
        if self.is_closed:
            self._stream.close()

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            self.failure = self.failure or error
            with suppress(OSError, AttributeError):
                self._drop_rest()

    def _drop_rest(self) -> None:
        """Redirects the stream to the null device, because Python writes what is left in memory when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        finally:
            os.close(nowhere)
        self._stream.flush()


def run_in_terminal(program: Callable[[], int]) -> int:
    """Runs a program with streams that are safe to write to, and reports output that could not be written.

    Args:
        program: A function that returns the exit code.

    Returns:
        The exit code of the program; instead of 0 or 1 it is 2, after a sentence on stderr, if stdout could not be
        written.

    Raises:
        SystemExit: If the program raises it, and stdout could be written.
    """
    if isinstance(sys.stdout, Stream):
        return program()
    _open_closed_files()
    stop: SystemExit | None = None
    stdout, stderr = Stream(sys.stdout, "\n\t"), Stream(sys.stderr, "\n\t\r")  # a progress bar writes \r
    with ExitStack() as stack:
        stack.callback(stderr.close)
        stack.callback(stdout.close)
        stack.enter_context(redirect_stdout(stdout))  # pyright: ignore[reportArgumentType]
        stack.enter_context(redirect_stderr(stderr))  # pyright: ignore[reportArgumentType]
        shown = stack.enter_context(_collect_warnings())
        try:
            code = program()
        except SystemExit as error:  # argparse and tyro end a program like this
            code, stop = error.code if isinstance(error.code, int) else int(error.code is not None), error
        stdout.flush()
        if code != 2:
            for text in shown:
                print_line(f"warning: {text}")
        if stdout.failure is not None and code in (0, 1):
            print_line(f"stdout cannot be written: {_explain(stdout.failure)}")
            return 2
        if stop is not None:
            raise stop
        return code


def require_stdout(instead: str) -> None:
    """Checks that stdout is open, before a program that only prints its result computes it.

    Args:
        instead: The flag that stores the result in a file or a folder.

    Raises:
        ValueError: If stdout is closed.
    """
    if isinstance(sys.stdout, Stream) and sys.stdout.is_closed:
        raise ValueError(f"expected stdout to be open, or {instead} to name a place for the result, got neither")


def print_data(text: str) -> None:
    """Prints text that another program may read: exactly as it is, unless stdout is a terminal.

    Raises:
        ValueError: If the encoding of stdout lacks a character of the text.
    """
    if isinstance(sys.stdout, Stream) and not sys.stdout.isatty():
        sys.stdout.write_exactly(text)
    else:
        print(text, end="")


def quote_formula(text: str) -> str:
    """Returns the text of a cell in a .csv file, with an apostrophe before text that a spreadsheet would run.

    A spreadsheet runs text that begins with =, +, -, @, a tab or a carriage return. A plain number stays as it is.
    """
    is_number = re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number else text


@contextmanager
def colored_streams() -> Iterator[None]:
    """Lets both streams show colors inside the `with` block, where tyro prints its help and its errors."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Stream)]
    for stream in streams:
        stream.colored = True
    try:
        yield
    finally:
        for stream in streams:
            stream.colored = False


def _open_closed_files() -> None:
    """Opens the null device for each closed standard stream, because the next opened file would take its number.

    Messages from C++ code would then go to that file: they go to file 2, whichever it is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collects the texts of warnings that matter to the user of a program, instead of printing them at once."""
    texts: list[str] = []

    def collect(message, category, filename, lineno, file=None, line=None):
        if str(message) not in texts:
            texts.append(str(message))

    with warnings.catch_warnings():
        for category in UNSHOWN:
            warnings.filterwarnings("ignore", category=category, append=True)  # after the filters of -W
        warnings.showwarning = collect
        yield texts


def _explain(error: OSError) -> str:
    return "nothing reads it anymore" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
