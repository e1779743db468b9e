"""A device that several stages of one process compute on: how much of its time a step had, and what the others have yet to do.

Decides that who computes at the same moment has as much of the device as anybody else (processor sharing), so that how fast a stage is
can be learned as if it were alone, and what others do beside it is counted apart. Nobody is told to wait. Time is handed in; any thread.
"""

import threading
from collections.abc import Callable, Sequence

from stages.contract.engine import Load


class SharedDevice:
    """`room`: so many stages compute on it at once, each as fast as alone (1: a GPU; cores over threads: a CPU)."""

    def __init__(self, room: float = 1.0) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._shares: list[DeviceShare] = []
        self._num_busy = 0
        self._had_s = self._at = 0.0  # by whoever has computed since the beginning

    def share(self) -> "DeviceShare":
        """For one more stage."""
        share = DeviceShare(self)
        self._shares.append(share)
        return share

    @property
    def is_shared(self) -> bool:
        return len(self._shares) > 1 and self._room < 2

    def others(self, share: "DeviceShare") -> Sequence["DeviceShare"]:
        return [other for other in self._shares if other is not share] if self.is_shared else ()

    def turn(self, now: float, change: int) -> float:
        """One stage more computes from now on, or one less. What whoever computed all the time has had of the device up to now."""
        with self._lock:
            if self._num_busy:
                self._had_s += (now - self._at) * min(1.0, self._room / self._num_busy)
            self._at = now
            self._num_busy += change
            return self._had_s


class DeviceShare:
    """One stage's."""

    def __init__(self, device: SharedDevice) -> None:
        self._device, self._began_s = device, 0.0
        self._load: Callable[[], Load] | None = None

    def is_of(self, load: Callable[[], Load]) -> None:
        """Whose it is: how much that one has to do."""
        self._load = load

    @property
    def is_shared(self) -> bool:
        return self._device.is_shared

    def begin(self, now: float) -> None:
        self._began_s = self._device.turn(now, 1)

    def end(self, now: float) -> float:
        """Seconds of the device that it had since `begin`; all that passed, where no other computed."""
        return self._device.turn(now, -1) - self._began_s

    def others_s(self) -> list[float]:
        """How long each of the others has yet to do, had it the device alone. Not under a lock that `load` takes."""
        return [other._seconds_ahead() for other in self._device.others(self)]

    def _seconds_ahead(self) -> float:
        return self._load().seconds_ahead if self._load is not None else 0.0
