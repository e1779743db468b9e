"""The command line: `triptych serve`, `triptych demo`, `triptych check`. Decides nothing about serving; reads the configuration."""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.settings.config import INGRESS, AppConfig
from pipelines.settings.config_file import load
from pipelines.settings.derived import derivations
from stages.contract.errors import TriptychError

ROOT = Path(__file__).parent.parent
DEFAULT_CONFIG = ROOT / "serve_config.yaml"
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.splitlines()[0])

ConfigPath = Annotated[Path, typer.Option("--config", help="a Ray Serve config file with Triptych's application")]
Host = Annotated[str | None, typer.Option(help="overrides http_options.host")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="overrides http_options.port")]


@app.command()
def serve(config: ConfigPath = DEFAULT_CONFIG, host: Host = None, port: Port = None) -> None:
    """Serves on this machine until Ctrl-C."""
    from pipelines.cluster.local_cluster import Address, running

    console = Console()
    with _errors(console):
        file = load(config)
        address = Address(host or file.http.host, port or file.http.port)
        with running(file.app, file.app_name, address, console, _build):
            stop = _stop_on_signals()  # after Ray, which installs handlers of its own
            console.print(
                f"[bold green]ready[/bold green]: open {address.url} or use {address.url}/v1 (Ctrl-C stops)", soft_wrap=True
            )
            stop.wait()


@app.command()
def demo(
    config: ConfigPath = DEFAULT_CONFIG, out: Annotated[Path, typer.Option(help="where the PNGs go")] = Path(".triptych")
) -> None:
    """Starts Triptych, asks about a picture, paints a picture, shows both receipts, and stops."""
    from pipelines.cluster.local_cluster import Address, running
    from pipelines.tour import free_port, tour

    console = Console()
    with _errors(console):
        file = load(config)
        address = Address("127.0.0.1", free_port())
        with running(file.app, file.app_name, address, console, _build):
            tour(address.url, file.app, out, console)


@app.command()
def prepare(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Downloads and unpacks what the configuration's stages load, so that they start sooner (for an image, or after installing)."""
    from pipelines.settings.specs import stage_specs
    from stages.host.registry import prepare as prepare_stage

    console = Console()
    with _errors(console):
        for spec in stage_specs(load(config).app).values():
            with console.status(f"{spec.name}: {spec.source}"):
                prepare_stage(spec)


@app.command()
def check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Says whether a configuration is sound, what would be deployed, and what was derived for what it leaves out."""
    console = Console()
    with _errors(console):
        file = load(config)
        console.print(f"{INGRESS}: {', '.join(('HTTP', *file.app.ingress.stages))}")
        for name, deployment in file.app.placement().items():
            console.print(f"{name}: {', '.join(deployment.stages)}")
        console.print("derived:")
        for line in derivations(file.app):
            console.print(f"  {line}", soft_wrap=True, highlight=False)


class _errors:
    """Turns the errors a person can act on into one red message and exit code 2."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TriptychError):
            self._console.print(f"[bold red]error[/bold red]: {error.message}", soft_wrap=True, highlight=False)
            sys.exit(2)


def _build(config: AppConfig, app_name: str) -> Any:
    from pipelines.app import build_named  # imports Ray, which reads its settings then

    return build_named(config, app_name)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop


def main() -> None:
    app()


if __name__ == "__main__":
    main()
