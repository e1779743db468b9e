"""From the name of a host to its addresses, by the system's resolver, which may take long and can't be stopped.

A look-up has a thread of its own, and everybody who asks for the same name at that time has its answer; who gives up leaves it to end
by itself. So slow names hold up nobody but those who ask for them. Decides nothing about what may be asked.
"""

import asyncio
import socket
from collections.abc import Sequence

from stages.concurrency.thread_pool import DaemonThreads


class NameLookUps:
    """A `Resolver` for one event loop."""

    def __init__(self, threads: DaemonThreads) -> None:
        self._threads = threads
        self._under_way: dict[tuple[str, int], asyncio.Task[Sequence[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Raises `OSError` or `UnicodeError` for a name that is none, `Overloaded` where all threads are taken."""
        key = host.lower(), port
        if key not in self._under_way:
            task = self._under_way[key] = asyncio.create_task(self._threads.run(look_up, *key))
            task.add_done_callback(lambda task: self._ended(key, task))
        return await asyncio.shield(self._under_way[key])

    def _ended(self, key: tuple[str, int], task: asyncio.Task[Sequence[str]]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # there may be nobody left to hear of it


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses, best first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
