"""What computing takes of a device's memory beside what was there before. Decides how that is seen: by torch's own account on a GPU, and
of a CPU by what the process has, looked at again and again."""

import sys
import threading
from types import TracebackType
from typing import Any

import psutil

LOOK_AGAIN_S = 0.005


class PeakBytes:
    """A context manager; `taken` afterwards. Of a CPU it is a lower bound: what comes and goes between two looks isn't seen."""

    def __init__(self, device: str) -> None:
        self._device, self._process = device, psutil.Process()
        self._ended = threading.Event()
        self._looking: threading.Thread | None = None
        self._before = self._most = self.taken = 0

    def __enter__(self) -> "PeakBytes":
        if (cuda := self._cuda()) is not None:
            cuda.reset_peak_memory_stats(self._device)
            self._before = int(cuda.memory_allocated(self._device))
        else:
            self._before = self._most = int(self._process.memory_info().rss)
            self._looking = threading.Thread(target=self._look, name="looking at memory", daemon=True)
            self._looking.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._looking is not None:
            self._looking.join()
        elif (cuda := self._cuda()) is not None:
            self._most = int(cuda.max_memory_allocated(self._device))
        self.taken = max(0, self._most - self._before)

    def _look(self) -> None:
        while not self._ended.wait(LOOK_AGAIN_S):
            self._most = max(self._most, int(self._process.memory_info().rss))

    def _cuda(self) -> Any:
        torch = sys.modules.get("torch")
        return torch.cuda if torch is not None and self._device.startswith("cuda") else None
