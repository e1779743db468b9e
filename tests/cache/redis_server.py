"""A real Redis server for tests, at an address that stays the same while it is killed, stopped and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from cache.embedded import server_program


class RedisServer:
    """On a unix socket in `folder`, or on a free loopback port. `settings`: further lines of its configuration."""

    def __init__(self, folder: Path, *, tcp: bool = False, **settings: str) -> None:
        self._folder, self._port = folder, _free_port() if tcp else 0
        self._settings = {"maxmemory": "64mb", "maxmemory_policy": "allkeys-lfu"} | settings
        self._socket = folder / "s.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}" if self._port else f"unix://{self._socket}"

    def start(self) -> "RedisServer":
        """Returns when it answers."""
        program = (shutil.which("redis-server") if self._port else None) or str(server_program())
        settings = {"port": str(self._port), "save": "", "dir": str(self._folder), "logfile": "log"} | self._settings
        if not self._port:
            settings["unixsocket"] = str(self._socket)
        words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        self._process = subprocess.Popen([program, *words])
        deadline = time.monotonic() + 30
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text())
        return self

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, protocol=2)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
