"""How the stages of one machine share its cores: alone each computes with all the threads it is given, beside others with fewer.

Two stages that compute with every core each don't take twice their time, but up to five times: whichever thread has lost its
core keeps all the others of its step waiting, and they wait by spinning on the cores that it lacks. So a stage says in memory
that all processes of the machine see when it computes and with how many threads it would, and takes its part of the cores
before every step. Nobody is told to wait, nothing is reserved: a stage alone has the machine (`benchmarks/results/fairness.json`).

Decides how many threads, not which stage runs where (that is the plan's affair). A process that dies leaves nothing behind: its
lease is a lock on a byte of the file, and the kernel lets go of it.
"""

import fcntl
import logging
import mmap
import os
import struct
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from stages.device.temporary_folder import temporary_folder

MAX_LEASES = 256
MAX_THREADS = 2**16 - 1  # what an entry of the file holds
FLOCK = "hhqqi0q"  # struct flock of Linux: type, whence, start, length, pid
log = logging.getLogger("triptych.stages")


def available_cores() -> int:
    """The cores that this process may use, at least 1: those it may run on, and no more than its container's share of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return max(1, min(allowed, round(int(quota) / int(period))))
    return allowed


def threads_for(wanted: int, wanted_by_others: int, num_cores: int) -> int:
    """How many of the threads it wants (at least 1) a stage may compute with: all of them while there is a core for everyone's,
    otherwise its part of the cores, at least one."""
    total = wanted + wanted_by_others
    return wanted if total <= num_cores else max(1, wanted * num_cores // total)


class Threads(Protocol):
    """Sets how many threads the calling thread computes with."""

    def __call__(self, count: int, /) -> None: ...


def _torch_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


class CoreLease:
    """A stage's part of a machine's cores. For the stage's own thread alone, except `close`."""

    def __init__(self, cores: "SharedCores", index: int, wanted: int, set_threads: Threads) -> None:
        self._cores, self._index, self._wanted, self._set_threads = cores, index, wanted, set_threads
        self._now = 0

    def take(self) -> None:
        """It computes from now on, with its part of the cores. Called before every step; some microseconds."""
        self._cores.write(self._index, self._wanted)
        count = threads_for(self._wanted, self._cores.wanted_by_others(self._index), self._cores.num_cores)
        if count != self._now:
            self._set_threads(count)
            self._now = count

    def leave(self) -> None:
        """It waits for work: the cores are the others'."""
        self._cores.write(self._index, 0)

    def close(self) -> None:
        """Gives the lease up. Not while its thread may still take cores."""
        self._cores.give_up(self._index)


class SharedCores:
    """Who computes on this machine now: `path` is a small file that its processes share. Raises `OSError` where it can't be made."""

    def __init__(self, path: Path, *, num_cores: int | None = None) -> None:
        self.num_cores = num_cores if num_cores is not None else available_cores()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, 2 * MAX_LEASES)
        self._wanted = memoryview(mmap.mmap(self._file, 2 * MAX_LEASES)).cast("H")
        self._lock = threading.Lock()
        self._ours: set[int] = set()  # the kernel doesn't tell a process of its own locks

    def lease(self, wanted: int, *, set_threads: Threads = _torch_threads) -> CoreLease | None:
        """A lease for a stage that computes with up to `wanted` threads. None, and a warning, where all are taken."""
        with self._lock:
            for index in range(MAX_LEASES):
                if index not in self._ours and self._claim(index):
                    self._ours.add(index)
                    self.write(index, 0)
                    return CoreLease(self, index, min(wanted, MAX_THREADS), set_threads)
        log.warning("more than %d stages on this machine: one computes without regard to the others", MAX_LEASES)
        return None

    def wanted_by_others(self, index: int) -> int:
        """The threads wanted by all who compute now, but for the one at `index`."""
        wanted = self._wanted.tolist()
        wanted[index] = 0
        if not any(wanted):
            return 0
        return sum(count for other, count in enumerate(wanted) if count and self._is_taken(other))

    def write(self, index: int, wanted: int) -> None:
        self._wanted[index] = wanted

    def give_up(self, index: int) -> None:
        with self._lock:
            if index in self._ours:
                self.write(index, 0)
                self._ours.discard(index)
                self._locked(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, index)

    def _claim(self, index: int) -> bool:
        with suppress(OSError):
            self._locked(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, index)
            return True
        return False

    def _is_taken(self, index: int) -> bool:
        """Whether a living process has the lease; a dead one's last word may still stand there."""
        return index in self._ours or self._locked(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, index) != fcntl.F_UNLCK

    def _locked(self, command: int, kind: int, index: int) -> int:
        answer = fcntl.fcntl(self._file, command, struct.pack(FLOCK, kind, os.SEEK_SET, index, 1, 0))
        return int(struct.unpack(FLOCK, answer)[0])


@cache
def cores_of_this_machine() -> SharedCores | None:
    """What is shared by all this user's stages on this machine; None, and a warning, where there can't be one."""
    shared = Path("/dev/shm")
    folder = shared if os.access(shared, os.W_OK) else temporary_folder()
    try:
        return SharedCores(folder / f"triptych-cores-{os.getuid()}")
    except (OSError, AttributeError) as error:  # a read-only file system; a system without these locks
        log.warning("stages on this machine compute without regard to each other: %s", error)
        return None
