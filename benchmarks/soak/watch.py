"""Looks at every process of a server now and then. Decides how often; what it means is `growth.py`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import psutil

from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.processes import command_line, marked
from benchmarks.soak.growth import Grown, Sample, grown


@dataclass(slots=True)
class Watch:
    """`samples`: by process. `commands`: as they were last."""

    server: Server
    began: float = field(default_factory=time.monotonic)
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    commands: dict[int, str] = field(default_factory=dict)

    async def keep_looking(self, every_s: float) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(every_s)

    def look(self) -> None:
        for pid, process in marked(MARK, self.server.mark).items():
            try:
                with process.oneshot():
                    rss, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
            except psutil.Error:
                continue
            self.commands[pid] = command_line(process)
            self.samples.setdefault(pid, []).append(Sample(time.monotonic() - self.began, rss, files, threads))

    def survivors(self, *, warm_s: float, least_s: float) -> list[Grown]:
        """Those that are still there and were for long enough, ours first, what grew most first."""
        alive = marked(MARK, self.server.mark)
        found = [
            one
            for pid, samples in self.samples.items()
            if pid in alive and (one := grown(pid, self.commands[pid], samples, warm_s=warm_s, least_s=least_s)) is not None
        ]
        return sorted(found, key=lambda one: (one.owner.value, -one.mib_a_minute))
