"""Programs as their users meet them: called in this process, or started as a process of their own."""

import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple
from unittest import mock

from support.paths import ENVIRONMENT, SCRIPTS


class Ended(NamedTuple):
    """How a program has ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def sentence(self):
        """The last line on stderr."""
        return self.err.splitlines()[-1] if self.err else ""


def call(main, *arguments, name="program.py", folder="."):
    """Calls the function `main` of a program in this process, as if started in `folder` under a name."""
    out, err = StringIO(), StringIO()
    argv = [name, *map(str, arguments)]
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", argv):
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    return Ended(code, out.getvalue(), err.getvalue())


def compile_cache(folder):
    """The environment of processes that share their compiled programs by a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(script, *arguments, folder=".", environment=(), command=(sys.executable,)):
    """Starts one of the scripts as a process in `folder`; `command` is what runs it."""
    return subprocess.Popen(
        [*command, str(SCRIPTS / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | ENVIRONMENT | dict(environment),
    )


def end(process, timeout=300):
    """Waits for a process, which must not have written a traceback."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return Ended(process.returncode, out, err)
