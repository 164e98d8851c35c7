"""A run of several processes: how they find each other, what they agree on, and how one ends when another is gone.

JAX's coordination service ends a process by abort where the coordinator does not answer, at the start or later.
Python's own handlers would come too late, so C calls one through ctypes: it says why, and ends the process at once.
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

T = TypeVar("T")
HEARTBEAT = 20  # seconds without a sign of life, after which a process counts as gone
GONE = f"another process of this run is gone, or has given no sign of life for {HEARTBEAT} s"


def join(coordinator: str | None, count: int | None, number: int | None, seconds: float) -> None:
    """Makes this process one of `count`, the one of that `number`, from 0; before JAX's first computation.

    `coordinator` is HOST:PORT of process 0. Without the three, they are what Slurm or Open MPI has set. Raises
    ValueError where only some are given, where there is no launcher, and for a number that is not below the count.
    Where not all have come after so many seconds, the process ends with a sentence and exit code 2.
    """
    by_hand = (coordinator, count, number)
    if any(by is None for by in by_hand) and any(by is not None for by in by_hand):
        raise ValueError("coordinator, processes and process are wanted together, or none of them under a launcher")
    if count is not None and number is not None and not 0 <= number < count:
        raise ValueError(f"process is {number}, but one from 0 to below processes, {count}, is wanted")
    bound = None
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"coordinator is {coordinator!r}, but HOST:PORT is wanted")
        # Of several machines process 0 listens at all its addresses, for HOST may be another's name for it.
        bound = coordinator if host in ("localhost", "[::1]") or host.startswith("127.") else f"[::]:{port}"
        if number == 0:
            require_bindable(bound)
    whom = f"the coordinator at {coordinator}" if number else "all processes"
    guard(f"{whom} did not answer within {seconds:g} s")
    jax.config.update("jax_enable_preemption_service", False)  # which would swallow SIGTERM
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            number,
            coordinator_bind_address=bound,
            initialization_timeout=max(1, ceil(seconds)),  # for 0 it would wait for ever
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except KeyError as missing:
        raise ValueError(f"the launcher has not set {missing}") from None
    except (ValueError, RuntimeError) as error:
        if coordinator is None:
            wanted = "give coordinator, processes and process"
            raise ValueError(f"no launcher is found, such as Slurm or Open MPI: {wanted} ({error})") from None
        raise ValueError(f"the processes cannot be joined: {' '.join(str(error).split())}") from None
    guard(GONE)


def require_bindable(address: str) -> None:
    """Raises ValueError where this process cannot listen there, which JAX answers by a segmentation fault."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a run that has ended is in the way
            bound.bind(place)
    except OSError as error:
        raise ValueError(f"process 0 cannot listen at {address}: {error.strerror}") from None


def is_distributed() -> bool:
    """Whether there are others."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether it is so in any process; all are to ask."""
    if not is_distributed():
        return flag
    from jax.experimental.multihost_utils import process_allgather

    return bool(process_allgather(np.array(flag)).any())


def broadcast_from_first(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """The numbers that the first process has, to the bit; others' may be rounded otherwise."""
    if not is_distributed():
        return numbers
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return tuple(np.array(broadcast_one_to_all(np.array(numbers).view(np.uint32))).view(float).tolist())


def first_then_others(one: Callable[[], T], others: Callable[[], T]) -> T:
    """What `one` gives in the first process, and what `others` give in the others when that is done."""
    if is_first():
        found = one()
        any_process(True)
        return found
    any_process(True)
    return others()


def is_lost(error: Exception) -> bool:
    """Whether an error is that of an exchange with a process that is gone."""
    return any(by in str(error) for by in ("Gloo", "Barrier", "coordination service")) and is_distributed()


def exit_now(code: int) -> NoReturn:
    """Ends the process without waiting for the others, as an ordinary exit would; they find it gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def guard(sentence: str) -> None:
    """From now on an abort says `sentence`, below what JAX says of it, and exits with 2."""
    line = f"\n{os.path.basename(sys.argv[0])}: {sentence}\n".encode()

    def handle(_: int) -> None:
        os.write(2, line)
        os._exit(2)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    _KEPT.append(handler)  # which C goes on pointing to
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


_KEPT: list[object] = []
