"""Times, and work in processes of their own: with a number of cores, a time limit and a memory limit."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

MEMORY_BYTES = 8 << 30  # of data; a peer that wants more fails alone
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def clock() -> float:
    """Seconds: on one thread processor time, which other work on the machine hardly lengthens; on several wall-clock time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def call_times_ms(
    function: Callable[[], object], *, seconds: float = 1.0, at_least: int = 3, now: Callable[[], float] = clock
) -> list[float]:
    """Milliseconds of single calls, after one that is not counted: at least so many calls, and so many seconds, at most 1000."""
    function()
    times: list[float] = []
    while len(times) < at_least or (sum(times) < 1e3 * seconds and len(times) < 1000):
        begin = now()
        function()
        times.append(1e3 * (now() - begin))
    return times


def median_ms(function: Callable[[], object], *, seconds: float = 1.0, at_least: int = 3) -> float:
    """Median of `call_times_ms`."""
    return statistics.median(call_times_ms(function, seconds=seconds, at_least=at_least))


class Failure(RuntimeError):
    """What went wrong in a worker, in a sentence."""


class Worker:
    """A process that runs functions one at a time on `threads` cores; started on first use, and again after a failure.

    All libraries are held to the same cores by the processor affinity, whatever variables they read.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], *args: Any, limit_s: float) -> Any:
        """The function's result; `Failure` when it raises, dies or takes longer. Function and arguments are pickled."""
        if self._process is None:
            self._start()
        assert self._connection is not None
        self._connection.send((function, args))
        try:
            if not self._connection.poll(limit_s):
                spent = self._processor_seconds()
                self.close()
                raise Failure(f"no answer in {limit_s:.0f} s, {spent:.0f} s of processor time")
            succeeded, result = self._connection.recv()
        except (EOFError, ConnectionError):
            self.close()
            raise Failure("the process died, perhaps for lack of memory") from None
        if not succeeded:
            raise Failure(result)
        return result

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def _processor_seconds(self) -> float:
        """Of the process since its start. Linux only."""
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, self.threads), daemon=True)
        before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
        # Read by the child while it imports its libraries, before any function of ours runs in it.
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(self.threads)))
        try:
            self._process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        remote.close()


def _serve(connection: Connection, threads: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    torch.set_num_threads(threads)
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            traceback.print_exc()
        connection.send(answer)


def reset_peak_memory() -> float:
    """Forget the peak so far; MiB resident now. Linux only."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_memory()


def peak_memory() -> float:
    """Largest resident memory of this process since `reset_peak_memory`, in MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
