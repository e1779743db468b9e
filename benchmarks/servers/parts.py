"""A served Triptych on this machine as processes: its replicas, its proxy, its nodes. Decides how each is found; ends none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from benchmarks.servers.processes import command_line, marked, replicas

MARK = "TRIPTYCH_BENCHMARK_SERVED_AT"  # in the environment of all that the server starts
RAYLET_OF = "RAY_RAYLET_PID"  # in the environment of a node's workers


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs. `application`: its name; `mark`: its own value of `MARK`."""

    url: str
    application: str
    mark: str

    def replicas(self, deployment: str) -> Sequence[psutil.Process]:
        return replicas(self.application, deployment)

    def named(self, *words: str) -> Sequence[psutil.Process]:
        """Its processes whose command line holds one of these. Those that write their title over their environment, as Redis does, are
        known by their parents."""
        ours = marked(MARK, self.mark)
        for parent in [*ours.values()]:
            with suppress(psutil.NoSuchProcess):
                ours |= {child.pid: child for child in parent.children()}
        return [process for process in ours.values() if any(word in command_line(process) for word in words)]

    def node(self, resource: str) -> Sequence[psutil.Process]:
        """All processes of the node that has one of this resource."""
        raylets = [process for process in self.named("raylet/raylet") if f"{resource},1" in command_line(process)]
        return [process for raylet in raylets for process in (raylet, *self._of_node(raylet))]

    def _of_node(self, raylet: psutil.Process) -> Sequence[psutil.Process]:
        children = {process.pid: process for process in raylet.children(recursive=True)}
        return list((children | marked(RAYLET_OF, str(raylet.pid))).values())
