"""Workers that start with their libraries imported: one process imports them once, every worker is a fork of it.

Importing Ray Serve, torch, transformers and diffusers takes ten seconds and more of a slow core, and every stage is a process of
its own. So a Ray worker is not started but asked for: Ray runs this file in place of its interpreter (`py_executable` in the
runtime environment), it hands its arguments, environment and standard streams to the fork server of this machine (starting one
where there is none), and ends; the fork goes on as the worker. Where anything is not as expected, it becomes an ordinary worker.

Two servers, the second a fork of the first: what Serve builds applications with, and hosts no stage, needs only what imports in a
moment, and must not wait while the other imports what stages need.

Decides what is imported beforehand, and that a fork server ends with its node. Knows nothing of stages, nor of Ray beyond how a
worker is run. It is run by its path, with the standard library only. Of Triptych, whose code may be another by the time that a worker is
asked for, it imports something only where whoever started the cluster says that its workers run the same code (`KNOWS_CODE`) and no folder
of PYTHONPATH, where Ray puts an application's own code, has any of the same name; and once a file of it has changed, workers are ordinary
ones.

- Workers share a fork server where node, user, interpreter and every setting that a library reads at import are the same.
- It is one thread, computes nothing, touches no GPU and draws none of Ray's random numbers, so that its forks are sound.
"""

import contextlib
import errno
import fcntl
import gc
import hashlib
import importlib
import importlib.util
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

BASE = (
    "ray.serve",
    "numpy",
    "pydantic",
    "fastapi",
    "httpx",
    "PIL.Image",
    "redis.asyncio",
)
"""Third-party modules that every process of Triptych needs, in order. A module that isn't there is left out."""
STAGES = (
    "torch",
    "torchvision",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "open_clip",
)
"""And those that stages need."""
OWN = ("pipelines.app",)
"""Triptych's modules, likewise: of what Serve builds and hosts, each process would else take most of a second for them."""
KNOWS_CODE = "TRIPTYCH_WORKERS_RUN_THIS_CODE"
"""Of the environment of the node: "1"."""
OF_STAGES = ".stages"
"""Ends the address of the server that has imported them, too."""
WITH_STAGES, WITHOUT_STAGES, ORDINARY = "stages", "base", "ordinary"
LIBRARIES_READ = ("RAY_", "HF_", "TRANSFORMERS_", "DIFFUSERS_", "TORCH", "PYTORCH_", "ONEDNN_", "DNNL_", "ATEN_", "OMP_", "GOMP_",
                  "KMP_", "MKL_", "OPENBLAS_", "NCCL_", "CUDA_HOME", "LD_", "PYTHON", "HUGGINGFACE_", "XDG_", "HOME",
                  KNOWS_CODE)  # fmt: skip
"""Environment variables by their beginning that a library reads when it is imported: a fork can't have others."""
RAYLET = "RAY_RAYLET_PID"
PER_WORKER = ("RAY_JOB_ID",)
PROTOCOL = 4  # of requests, and of how a fork begins; another one has servers of its own
ANSWER_WITHIN_S = 40.0
"""After that a worker is an ordinary one. Ray gives up on a worker that has not come after 60 s."""
STREAMS = 3
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = ("pipelines", "stages", "cache", "demo")
"""Triptych's, in there."""


def command(*, stages: bool) -> str:
    """For Ray's `py_executable`: a worker with all modules imported where it hosts stages, else without those that only stages need.
    On a node where the interpreter or this file is elsewhere, it is an ordinary worker."""
    python, file, kind = sys.executable, os.path.abspath(__file__), WITH_STAGES if stages else WITHOUT_STAGES
    script = f'if [ -x "{python}" ] && [ -f "{file}" ]; then exec "{python}" -S -E "{file}" {kind} "$@"; fi; exec python3 "$@"'
    return f"sh -c '{script}' worker"


def become_worker(arguments: list[str], *, stages: bool) -> None:
    """Runs `python arguments` as a fork of a fork server, once that has imported what it is for; in this process where that can't be."""
    try:
        forked = sys.platform == "linux" and _ask(address(os.environ), arguments, stages=stages)
    except (OSError, ValueError) as error:
        print(f"triptych: no fork server ({error}); an ordinary worker starts", file=sys.stderr)
        forked = False
    if not forked:
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), ORDINARY, *arguments])


def address(environment: Mapping[str, str]) -> str:
    """Where the fork server for this interpreter, these settings and their node listens. Raises ValueError where there is no node,
    PermissionError where others could listen there."""
    if RAYLET not in environment:
        raise ValueError(f"{RAYLET} is not set")
    names = [name for name in environment if name.startswith(LIBRARIES_READ) and name not in PER_WORKER]
    read = sorted((name, environment[name]) for name in names)
    digest = hashlib.sha256(json.dumps([PROTOCOL, sys.executable, BASE, STAGES, ROOT, OWN, read]).encode()).hexdigest()[:16]
    folder = os.path.join(_of_triptych("temporary_folder").temporary_folder(environment), f"triptych-workers-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is open to others")
    return os.path.join(folder, digest)


def _ask(path: str, arguments: list[str], *, stages: bool) -> bool:
    """Whether a fork runs the arguments now."""
    with _connected(path, OF_STAGES if stages else "") as server:
        server.settimeout(ANSWER_WITHIN_S)
        request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(server, [struct.pack("<Q", len(request))], list(range(STREAMS)))
        server.sendall(request)
        return server.recv(1) == b"y"


def _connected(path: str, kind: str) -> socket.socket:
    """To the fork server that listens at `path` and `kind`; both are started where it doesn't."""
    give_up = time.monotonic() + ANSWER_WITHIN_S
    with open(path + ".lock", "w") as lock:
        while not _locked(lock):
            if time.monotonic() > give_up:
                raise TimeoutError("the fork server's lock is held")
            time.sleep(0.05)
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(ANSWER_WITHIN_S)
        try:
            server.connect(path + kind)
        except (FileNotFoundError, ConnectionRefusedError):
            _spawn(path)
            server.connect(path + kind)
        return server


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(path: str) -> None:
    """Fork servers listen at `path` when this returns; they have imported nothing yet."""
    with _listening(path) as base, _listening(path + OF_STAGES) as of_stages:
        files = [base.fileno(), of_stages.fileno()]
        subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--listen", *map(str, files), path],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )


def _listening(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(256)
    return listening


class _Request(NamedTuple):
    """What a worker is to run, and as whom. `client` waits to be told that it runs."""

    client: socket.socket
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]

    def close(self) -> None:
        self.client.close()
        for stream in self.streams:
            os.close(stream)


class _Server:
    """Listens, imports, forks. `run` returns in a fork only, with what it is to run."""

    def __init__(self, listening: socket.socket, path: str) -> None:
        self._listening, self._path = listening, path
        self._node = os.pidfd_open(int(os.environ[RAYLET]))  # readable once it has ended

    def run(self) -> list[str]:
        gc.collect()
        gc.freeze()  # a fork's collector would touch, and so copy, every page of what was imported
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._node, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._node in ready:
                    self._end()
                request = _request(self._listening.accept()[0])
                if request is not None and self._forked(request):
                    return request.arguments

    def _forked(self, request: _Request) -> bool:
        """Whether this is the fork, as the asking process was."""
        if _has_gone(request.client):  # it was given up, or is an ordinary worker by now
            request.close()
            return False
        if os.fork() == 0:
            self._become(request)
            return True
        with contextlib.suppress(OSError):
            request.client.sendall(b"y")
        request.close()
        return False

    def _become(self, request: _Request) -> None:
        """This fork is as the asking process was."""
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._node)
        self._listening.close()
        request.client.close()
        os.environ.clear()
        os.environ.update(request.environment)
        os.chdir(request.folder)
        for number, stream in enumerate(request.streams):
            os.dup2(stream, number)
            os.close(stream)

    def _end(self) -> None:
        for end in ("", OF_STAGES, ".lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + end)
        os._exit(0)


def _request(client: socket.socket) -> "_Request | None":
    """None: it has gone away."""
    client.settimeout(5.0)
    streams: list[int] = []
    try:
        head, streams, _, _ = socket.recv_fds(client, 8, STREAMS)
        (length,) = struct.unpack("<Q", head)
        body = b""
        while len(body) < length:
            body += client.recv(2**16) or _gone()
        arguments, environment, folder = json.loads(body)
        return _Request(client, arguments, environment, folder, list(streams))
    except (OSError, ValueError, struct.error):
        client.close()
        for stream in streams:
            os.close(stream)
        return None


def _gone() -> bytes:
    raise ConnectionError("half a request")


def _has_gone(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _import(module: str) -> None:
    with contextlib.suppress(Exception):
        if module == "ray.serve":
            _have_the_system_number_actor_classes()
        elif module == "torch":
            _of_triptych("openmp").wait_briefly()
            os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a look for GPUs would spoil them for the forks
        elif module == "torchvision":
            _of_triptych("torchvision_shim").ensure_torchvision()
        importlib.import_module(module)


def _have_the_system_number_actor_classes() -> None:
    """Once Ray has drawn a random number, all that it draws in forks is the same in each of them: their tasks are called alike, and a
    Serve controller that two of them call at once ends (`core_worker.cc`: "Check failed: erased == 1"). What draws one while it is
    imported is a class of actors, for its id."""
    import ray.actor

    class _OfTheSystem(ray.ActorClassID):
        @classmethod
        def from_random(cls) -> Any:
            return ray.ActorClassID(os.urandom(ray.ActorClassID.size()))

    ray.actor.ActorClassID = _OfTheSystem


def _of_triptych(name: str) -> Any:
    """What must be done before a library is imported, by the file that says so: as a module it would be Triptych's own, too soon."""
    file = os.path.join(ROOT, "stages", "device", name + ".py")
    spec = importlib.util.spec_from_file_location(f"before_import_{name}", file)
    if spec is None or spec.loader is None:
        raise ImportError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class _OwnCode:
    """Triptych's modules as they were when they were imported here: by file, when it was changed last, and how long it was."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, int]] = {}

    def import_it(self) -> None:
        began = time.time_ns()
        sys.path.insert(0, ROOT)
        try:
            for module in OWN:
                _import(module)
        finally:
            sys.path.remove(ROOT)
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        self._files = {file: _state(file) for file in files if file and file.startswith(ROOT + os.sep) and _is_own(file)}
        if any(changed_at >= began for changed_at, _ in self._files.values()):  # who knows which of the two was imported
            self._files[ROOT] = NO_FILE

    def has_changed(self) -> bool:
        return any(_state(file) != state for file, state in self._files.items())


def _is_the_workers_code(environment: Mapping[str, str]) -> bool:
    """Whether workers import Triptych from here."""
    if environment.get(KNOWS_CODE) != "1":
        return False
    others = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    names = [name + end for name in PACKAGES for end in ("", ".py")]
    return not any(os.path.exists(os.path.join(path, name)) for path in others if path != ROOT for name in names)


def _is_own(file: str) -> bool:
    return os.path.relpath(file, ROOT).split(os.sep)[0] in PACKAGES


NO_FILE = (0, -1)


def _state(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return NO_FILE
    return found.st_mtime_ns, found.st_size


def _has_no_gpu() -> bool:
    """Whether something that was imported has looked for GPUs after all: then CUDA refuses this fork, and an ordinary worker must do."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


def _listen(base: int, of_stages: int, path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: they are Ray's
    listening = {False: socket.socket(fileno=base), True: socket.socket(fileno=of_stages)}
    for module in BASE:
        _import(module)
    own = _OwnCode()
    if _is_the_workers_code(os.environ):
        own.import_it()
    stages = os.fork() == 0
    listening[not stages].close()
    for module in STAGES if stages else ():
        _import(module)
    arguments = _Server(listening[stages], path).run()
    if _has_no_gpu() or own.has_changed():
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), ORDINARY, *arguments])
    _run(arguments)


def _run(arguments: list[str]) -> None:
    """As `python arguments` would."""
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
    _keep_running_when_the_disk_is_full()
    runpy.run_path(arguments[0], run_name="__main__")


def _keep_running_when_the_disk_is_full() -> None:
    """Ray's worker prints whose task it begins, and ends where that can't be written."""
    with contextlib.suppress(ImportError):
        from ray._private import utils

        utils.open_log = _open_log


def _open_log(path: str | int, unbuffered: bool = False, *, closefd: bool = True, **_: Any) -> io.TextIOWrapper:
    """In place of Ray's: a text stream that drops what its disk has no room for. `path`: or a file's number, as `open` takes it."""
    return io.TextIOWrapper(_Dropping(path, "a", closefd=closefd), "utf-8", line_buffering=True, write_through=unbuffered)


class _Dropping(io.FileIO):
    def write(self, data: Any, /) -> int:
        """All of it: who writes here doesn't ask how much it was."""
        left = memoryview(data).cast("B")
        num_bytes = len(left)
        while left:
            try:
                written = super().write(left)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                break
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "nobody reads it", num_bytes - len(left))
            left = left[written:]
        return num_bytes


if __name__ == "__main__":
    if sys.argv[1:2] == ["--listen"]:
        _listen(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:2] == [ORDINARY]:
        _run(sys.argv[2:])
    else:
        become_worker(sys.argv[2:], stages=sys.argv[1] == WITH_STAGES)
