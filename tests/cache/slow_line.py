"""A line to a Redis server that can be made slow: what the server says comes a byte at a time, far slower than anybody waits for it."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

DRIP_S = 0.05
"""Between two bytes."""


class SlowLine:
    """Listens on loopback (`url`) and passes on to the server's unix socket."""

    def __init__(self, server: Path) -> None:
        self._server, self._slow, self._over = server, threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads = [self._began(self._accept)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def slow_down(self) -> None:
        self._slow.set()

    def recover(self) -> None:
        self._slow.clear()

    def close(self) -> None:
        self._over.set()
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _began(self, function: object, *args: object) -> threading.Thread:
        thread = threading.Thread(target=function, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._ends += (client, server)
                try:
                    server.connect(str(self._server))
                except OSError:  # it is not there
                    client.close()
                    continue
                self._threads += [self._began(self._pass_on, client, server), self._began(self._pass_back, server, client)]

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        _end(server)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                sent = 0
                while self._slow.is_set() and sent < len(data) and not self._over.wait(DRIP_S):
                    sent += client.send(data[sent : sent + 1])
                client.sendall(data[sent:])
        _end(client)


def _end(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
