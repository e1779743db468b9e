"""Triptych on this machine: a Ray cluster of one node, started with progress and stopped without a trace.

Decides how big the one-node cluster is and what a waiting person sees. Knows nothing of requests.
"""

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.cluster.fork_server import KNOWS_CODE, command
from pipelines.ingress.proxy.proxy_headers import CALLBACK
from pipelines.settings.config_file import ServeFile, refused, told
from pipelines.settings.loopback import refuse_open_door
from pipelines.settings.nodes import Node, nowhere
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.ways_in import DIRECT_INGRESS, HA_PROXY, refuse_other_ways_in
from stages.contract.errors import ConfigurationError
from stages.device.cores import available_cores

OBJECT_STORE_BYTES = 512 * 2**20
NUM_SMALL_ACTORS = 10  # metrics table, Redis, Serve's own


@dataclass(frozen=True, slots=True)
class HttpAddress:
    host: str
    port: int

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@contextmanager
def running(file: ServeFile, address: HttpAddress, console: Console, timeout_s: float = 600) -> Iterator[None]:
    """Starts Ray and Triptych, yields once every stage is ready, stops both at the end. Raises `ConfigurationError`."""
    refuse_open_door(file.app, address.host)
    _refuse_taken_port(address)
    with _progress(console) as progress:
        began = time.monotonic()
        row = progress.add_task("starting Ray", total=None)
        is_all = not file.others and not file.common.get("runtime_env")
        _start_ray(max(available_cores(), _cpus_wanted(file.app)), fork_server=file.app.fork_server, is_all=is_all)
        try:
            refuse_what_has_no_place(file.app)
            _start_serve(address)
            progress.update(row, total=1, completed=1)
            _deploy(file, progress, timeout_s)
        except BaseException:
            _stop()
            raise
    console.print(f"[dim]started in {time.monotonic() - began:.0f} s[/dim]")
    try:
        yield
    finally:
        with console.status("stopping"):
            _stop()


@contextmanager
def connected(address: str, file: ServeFile) -> Iterator[Sequence[Node]]:
    """A running Ray cluster, with Serve, of these nodes; both go on afterwards. Raises `ConfigurationError` where there is none, and
    where Serve's own address, which a later file doesn't change, is open to strangers and the configuration has no keys."""
    _stay_on_loopback()  # else Ray takes a cluster on 127.0.0.1 for one at this machine's address in the network
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")  # read by Ray at import
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray
    from ray import serve

    from pipelines.cluster.running_serve import listening_host, nodes

    _tell_errors_only()
    environment = {"py_executable": command(stages=False)} if file.app.fork_server else None
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, runtime_env=environment)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"no Ray cluster at {address}: {error}") from None
    try:
        refuse_unknown_to_serve(file)
        http = {"host": file.http.host, "port": file.http.port} | dict(file.options.get("http_options") or {})
        serve.start(proxy_location=file.options.get("proxy_location"), http_options=http)  # does nothing where Serve runs
        refuse_open_door(file.app, listening_host())
        yield nodes()
    finally:
        ray.shutdown()


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=False, refresh_per_second=4)


def _refuse_taken_port(address: HttpAddress) -> None:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise ConfigurationError(
                f"port {address.port} on {address.host} cannot be had: {error.strerror}; choose another with PORT=… or --port"
            ) from None


def _start_ray(num_cpus: int, *, fork_server: bool, is_all: bool = True) -> None:
    """`num_cpus` is a figure of Ray's: on one machine, every replica fits. `is_all`: no other code is meant to run there."""
    # read by Ray at import and at start
    _stay_on_loopback()
    if "ray" not in sys.modules:  # which reads it at import: a test's or a benchmark's own would find its parts at odds
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # replicas listen on all addresses even so, and take pickles
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let everything else on the machine go first
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # none would be used: ours have a runtime environment
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.25")  # Serve's own 0.1 takes a small machine's time
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "2")  # a dead proxy is replaced after three, not after 30 s
    os.environ.setdefault("RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS", "1")  # who is stopped would keep its requests for minutes
    os.environ.setdefault(
        "RAY_SERVE_PROXY_USE_GRPC", "1"
    )  # by way of Ray's objects each piece of a stream costs twice as much
    os.environ.setdefault(
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(2**31 - 1)
    )  # Serve's own 4 MiB are less than a picture's
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", CALLBACK)
    os.environ.setdefault(KNOWS_CODE, "1" if is_all else "0")
    refuse_other_ways_in({name: os.environ.setdefault(name, "0") == "1" for name in (HA_PROXY, DIRECT_INGRESS)})
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    with refusing_another_cluster():
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env={"py_executable": command(stages=False)} if fork_server else None,
            _system_config={"metrics_report_interval_ms": 10_000},
        )
    _tell_errors_only()


@contextmanager
def refusing_another_cluster() -> Iterator[None]:
    """Raises `ConfigurationError` where Ray, which is to start a cluster, would join the one that `ray start` or RAY_ADDRESS tells of.
    What is told may be out of date: Ray doesn't look."""
    try:
        yield
    except ValueError as error:
        if "existing cluster" not in str(error):
            raise
        told = os.environ.get("RAY_ADDRESS")
        found = (
            f"RAY_ADDRESS names a Ray cluster ({told})" if told else "`ray start` has started a Ray cluster on this machine"
        )
        instead = "unset it" if told else "end that one with `ray stop`"
        raise ConfigurationError(
            f"{found}, and this command starts one of its own: {instead}, or put Triptych on that cluster with `triptych deploy`"
        ) from None


def _stay_on_loopback() -> None:
    """A node that this process starts is at 127.0.0.1, and all of Ray there listens on loopback only. Ray's own way on macOS and Windows,
    and no other reaches as far: it resolves a node address of 127.0.0.1 to the machine's in the network. Before Ray is imported."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _tell_errors_only() -> None:
    logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.ERROR)


def refuse_what_has_no_place(config: AppConfig) -> None:
    """Raises `ConfigurationError` where a deployment that needs a replica has no node: on one machine nobody adds one."""
    from pipelines.cluster.running_serve import nodes

    if found := [str(each) for each in nowhere(config, nodes()) if not each.may_sleep]:
        raise refused(found)


def _cpus_wanted(config: AppConfig) -> int:
    """The sum of `num_cpus` with every deployment at its largest, twice: while it is replaced, its new replicas stand beside it."""
    wanted = 2 * config.ingress.num_replicas * config.ingress.ray_actor_options.num_cpus
    for deployment in config.placement().values():
        scaling = deployment.autoscaling_config
        replicas = scaling.max_replicas if scaling is not None else deployment.num_replicas or 1
        wanted += 2 * replicas * deployment.ray_actor_options.num_cpus
    return math.ceil(wanted + NUM_SMALL_ACTORS * 0.01)


def _start_serve(address: HttpAddress) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    options = HTTPOptions(host=address.host, port=address.port, request_timeout_s=None, keep_alive_timeout_s=75)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=options)


def refuse_unknown_to_serve(file: ServeFile) -> None:
    """Raises `ConfigurationError` where Serve's own part of the file is not as Serve has it."""
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate({**file.options, "applications": list(file.others)})
    except ValidationError as error:
        raise refused(told(error)) from None


def _deploy(file: ServeFile, progress: Progress, timeout_s: float) -> None:
    from pipelines.cluster.deploy import Rollout  # imports Ray, which reads its settings then

    refuse_unknown_to_serve(file)
    try:
        Rollout(file, timeout_s, _Rows(progress).show).apply()
    except ConfigurationError as error:
        raise ConfigurationError(f"Triptych did not start: {error.message}") from None


class _Rows:
    """A row of progress for each deployment."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows: dict[str, Any] = {}

    def show(self, status: Mapping[str, Any]) -> None:
        """`status`: Serve's, by application."""
        for name, deployment in ((name, found) for app in status.values() for name, found in app.deployments.items()):
            if name not in self._rows:
                self._rows[name] = self._progress.add_task(f"loading {name}", total=None)
            if deployment.status.value == "HEALTHY":
                self._progress.update(self._rows[name], description=f"[green]{name}[/green]", total=1, completed=1)


def _stop() -> None:
    import ray
    from ray import serve

    # Ray tells of the controller's end as of an accident.
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        with suppress(Exception):
            serve.shutdown()
        ray.shutdown()
