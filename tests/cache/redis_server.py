"""A real Redis server for tests, at an address that stays the same while it is killed, stopped and started again."""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import redis

from cache.redis.embedded import server_program
from pipelines.free_port import free_port


class RedisServer:
    """On a unix socket in `folder`, or on a free loopback port. `program`: the machine's redis-server, or else ours. `tls`: a folder with
    ca.crt, server.crt and server.key. `settings`, `more`: further lines of its configuration."""

    def __init__(
        self,
        folder: Path,
        *,
        tcp: bool = False,
        program: Path | None = None,
        tls: Path | None = None,
        more: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        self._folder, self.port, self._tls = folder, free_port() if tcp or tls else 0, tls
        self._program = program or (Path(shutil.which("redis-server") or server_program()) if self.port else server_program())
        self.settings = {"maxmemory": "64mb", "maxmemory_policy": "allkeys-lfu"} | settings | dict(more or {})
        self._socket = folder / "s.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self._tls:
            return f"rediss://localhost:{self.port}?ssl_ca_certs={self._tls}/ca.crt"
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self._socket}"

    def start(self) -> "RedisServer":
        """Returns when it answers."""
        settings = {
            "port": str(self.port),
            "save": "",
            "dir": str(self._folder),
            "logfile": "log",
            "unixsocket": str(self._socket),
        }
        if self._tls:
            files = {"cert": "server.crt", "key": "server.key", "ca-cert": "ca.crt"}
            settings |= {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no"}
            settings |= {f"tls-{name}-file": str(self._tls / file) for name, file in files.items()}
        settings |= self.settings
        words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        self._process = subprocess.Popen([str(self._program), *words])
        deadline = time.monotonic() + 30
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text())
        return self

    def client(self) -> redis.Redis:
        """On its socket, whatever else it listens on."""
        return redis.Redis.from_url(f"unix://{self._socket}", protocol=2, password=self.settings.get("requirepass"))

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
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
