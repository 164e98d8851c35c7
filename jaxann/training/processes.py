"""A run of several processes: how they find each other, how they agree, and how each ends when another one is lost.

JAX's coordination service aborts a process whose coordinator does not answer, at the start or later. A handler from
Python's `signal` module would run too late, so a handler is installed in C through ctypes. It prints a sentence and
ends the process at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from math import ceil
from typing import NoReturn, TypeVar

import jax
import numpy as np

from jaxann.nn.hyperparameters import SettingError, validate_number

T = TypeVar("T")
HEARTBEAT_SECONDS = 20  # a process that gives no sign of life for so long counts as lost
GONE = f"another process of this run is gone, or has given no sign of life for {HEARTBEAT_SECONDS} s"
_HANDLERS: list[object] = []  # C holds pointers to them, which Python's garbage collector does not see


def join(coordinator: str | None, processes: int | None, process: int | None, connect_seconds: float) -> None:
    """Makes this process one of several of a run. It must be called before JAX's first computation.

    If the other processes do not join in time, this process ends with an error message of one sentence and exit code 2.

    Args:
        coordinator: "HOST:PORT" of process 0. If this and the next two are None, all three come from the launcher, such
            as Slurm or Open MPI.
        processes: The number of processes.
        process: The number of this process, from 0.
        connect_seconds: How long the processes wait for each other, in seconds.

    Raises:
        SettingError: If `processes` or `process` is out of range, or `coordinator` is not HOST:PORT. It is a
            ValueError.
        ValueError: If only some of the first three are None, if process 0 cannot listen at the coordinator's address,
            if there is no launcher to ask, or if JAX cannot connect the processes.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(
            f"expected coordinator, processes and process together, or none of them under a launcher, "
            f"got no {' and no '.join(missing)}"
        )
    if processes is not None and process is not None:
        validate_number("processes", processes, least=1, integer=True)
        validate_number("process", process, least=0, most=processes - 1, integer=True, note="they are numbered from 0")
    address = None
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise SettingError("coordinator", "to be HOST:PORT", coordinator)
        # On several machines process 0 listens at all its addresses, because only the others may know it as HOST.
        address = coordinator if host in ("localhost", "[::1]") or host.startswith("127.") else f"[::]:{port}"
        if process == 0:
            require_bindable(address)
    missed = f"the coordinator at {coordinator}" if process else "all processes"
    exit_on_abort(f"{missed} did not answer within {connect_seconds:g} s")
    jax.config.update("jax_enable_preemption_service", False)  # the service would swallow SIGTERM
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            coordinator_bind_address=address,
            initialization_timeout=max(1, ceil(connect_seconds)),  # with 0 it would wait forever
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except KeyError as variable:
        raise ValueError(f"the launcher has not set {variable}") from None
    except (ValueError, RuntimeError) as error:
        if coordinator is None:
            raise ValueError(
                f"expected a launcher, such as Slurm or Open MPI, or coordinator, processes and process, "
                f"got neither: {error}"
            ) from None
        raise ValueError(f"the processes cannot be joined: {' '.join(str(error).split())}") from None
    exit_on_abort(GONE)


def require_bindable(address: str) -> None:
    """Checks that this process can listen at an address, because JAX crashes if it cannot.

    Args:
        address: HOST:PORT.

    Raises:
        ValueError: If the process cannot listen there.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # Without this option the port of a run that has just ended would count as taken.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(resolved)
    except OSError as error:
        raise ValueError(f"process 0 cannot listen at {address}: {error.strerror}") from None


def is_distributed() -> bool:
    """Returns whether the run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this process is process 0, the one that writes and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Returns whether a flag is set in any process. All processes must call it together.

    Args:
        flag: The flag of this process.
    """
    if not is_distributed():
        return flag
    from jax.experimental.multihost_utils import process_allgather

    return bool(process_allgather(np.array(flag)).any())


def broadcast_from_first(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the numbers of process 0, bit for bit, in every process. All processes must call it together.

    Args:
        numbers: The numbers of this process, whose rounding may differ from that of process 0.
    """
    if not is_distributed():
        return numbers
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return tuple(np.array(broadcast_one_to_all(np.array(numbers).view(np.uint32))).view(float).tolist())


def run_first_then_others(first: Callable[[], T], others: Callable[[], T]) -> T:
    """Calls one function in process 0 and, once that has returned, another function in all other processes.

    Args:
        first: What process 0 calls.
        others: What every other process calls.

    Returns:
        What the function of this process returned.
    """
    if is_first():
        result = first()
        any_process(True)
        return result
    any_process(True)
    return others()


def is_lost(error: Exception) -> bool:
    """Returns whether an error comes from an exchange with a process that is gone.

    Args:
        error: An exception that JAX has raised.
    """
    return any(source in str(error) for source in ("Gloo", "Barrier", "coordination service")) and is_distributed()


def exit_now(code: int) -> NoReturn:
    """Ends this process at once; an ordinary exit would wait for the other processes.

    Args:
        code: The exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_on_abort(sentence: str) -> None:
    """Makes an abort of this process print a sentence, below what JAX prints, and exit with code 2.

    Args:
        sentence: The sentence, which replaces the one of an earlier call.
    """
    line = f"\n{os.path.basename(sys.argv[0])}: {sentence}\n".encode()

    def handle(_: int) -> None:
        os.write(2, line)
        os._exit(2)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    _HANDLERS.append(handler)
    libc: ctypes.CDLL = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
