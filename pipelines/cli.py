"""The command line: `triptych serve`, `deploy`, `check`, `prepare`, `demo`, `cache`, `explain`, `top`. Decides nothing about serving; reads
the configuration."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.commands import remembered
from pipelines.commands.console import DEFAULT_CONFIG, ConfigPath, Overlays, errors
from pipelines.commands.explain import explain
from pipelines.commands.plan import plan
from pipelines.commands.profile import profile
from pipelines.commands.top import top
from pipelines.settings.cautions import cautions, unreachable
from pipelines.settings.config_file import ServeFile, load, read_text, serve_document
from pipelines.settings.derived import derivations
from pipelines.settings.loopback import refuse_open_door
from pipelines.settings.nodes import nowhere
from pipelines.settings.pinning import pinned
from pipelines.settings.pools import described
from pipelines.settings.schema.config import INGRESS
from pipelines.settings.serve.manifest import serve_yaml, with_serve_config
from pipelines.settings.serve.rollout import Change, changes

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.replace("\n", " "))

app.add_typer(remembered.app, name="cache")
app.command()(plan)
app.command()(profile)
app.command()(explain)
app.command()(top)

Host = Annotated[str | None, typer.Option(help="overrides http_options.host")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="overrides http_options.port")]


@app.command()
def serve(config: ConfigPath = DEFAULT_CONFIG, overlay: Overlays = None, host: Host = None, port: Port = None) -> None:
    """Serves on this machine until Ctrl-C."""
    from pipelines.cluster.local_cluster import HttpAddress, running

    console = Console()
    with errors(console):
        file = _pinned(load(config, overlay or ()))
        address = HttpAddress(host or file.http.host, port or file.http.port)
        _print_cautions(cautions(file.app), console)
        with running(file, address, console):
            stop = _stop_on_signals()  # after Ray, which installs handlers of its own
            console.print(
                f"[bold green]ready[/bold green]: open {address.url} or use {address.url}/v1 (Ctrl-C stops)", soft_wrap=True
            )
            stop.wait()


@app.command()
def deploy(
    config: ConfigPath = DEFAULT_CONFIG,
    overlay: Overlays = None,
    address: Annotated[str, typer.Option(help="of the Ray cluster; auto: the one that runs on this machine")] = "auto",
    print_only: Annotated[
        bool, typer.Option("--print", help="print the Serve config (for `serve deploy` and KubeRay) and change nothing")
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(help="a KubeRay RayService: print it with the configuration as its serveConfigV2, and change nothing"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=60, help="seconds that a step of the change may take: the slowest stage's start")
    ] = 600,
) -> None:
    """Changes what runs on a Ray cluster into what the configuration says; only what differs is restarted, new replicas first."""
    from pipelines.cluster.local_cluster import connected

    console = Console()
    with errors(console):
        file = _pinned(load(config, overlay or ()))
        refuse_open_door(file.app, file.http.host)
        if print_only or manifest is not None:
            document = serve_document(file)
            typer.echo(
                serve_yaml(document) if manifest is None else with_serve_config(read_text(manifest), document), nl=False
            )
            return
        with connected(address, file) as nodes:
            from pipelines.cluster.deploy import Rollout

            _print_cautions(
                [*cautions(file.app), *unreachable(file.app, len(nodes)), *map(str, nowhere(file.app, nodes))], console
            )
            change = Rollout(file, timeout)
            _print_changes(change.changes(), console)
            with console.status("changing"):
                change.apply()


@app.command()
def demo(
    config: ConfigPath = DEFAULT_CONFIG, out: Annotated[Path, typer.Option(help="where the PNGs go")] = Path(".triptych")
) -> None:
    """Starts Triptych, asks about an image, paints an image, shows both receipts, and stops."""
    from pipelines.cluster.local_cluster import HttpAddress, running
    from pipelines.free_port import free_port
    from pipelines.tour import tour

    console = Console()
    with errors(console):
        file = _pinned(load(config))
        address = HttpAddress("127.0.0.1", free_port())
        with running(file, address, console):
            tour(address.url, file.app, out, console)


@app.command()
def prepare(config: ConfigPath = DEFAULT_CONFIG, overlay: Overlays = None) -> None:
    """Downloads and unpacks what the configuration's stages load, so that they start sooner (for an image, or after installing)."""
    from pipelines.settings.serve.specs import stage_specs
    from stages.host.kinds.registry import prepare as prepare_stage

    console = Console()
    with errors(console):
        for spec in stage_specs(load(config, overlay or ()).app).values():
            with console.status(f"{spec.name}: {spec.source}"):
                prepare_stage(spec)


@app.command()
def check(
    config: ConfigPath = DEFAULT_CONFIG,
    overlay: Overlays = None,
    before: Annotated[
        Path | None,
        typer.Option("--from", help="another configuration: say what the change from it to this one would restart"),
    ] = None,
) -> None:
    """Says whether a configuration is sound, what would be deployed, and what was derived for what it leaves out."""
    console = Console()
    with errors(console):
        file = load(config, overlay or ())
        refuse_open_door(file.app, file.http.host)
        if before is not None:
            now, wanted = (serve_document(each)["applications"] for each in (_pinned(load(before)), _pinned(file)))
            _print_changes(changes(now, wanted), console)
            return
        console.print(f"{INGRESS}: {', '.join(('HTTP', *file.app.ingress.stages))}")
        for name, deployment in file.app.placement().items():
            console.print(f"{name}: {', '.join(deployment.stages)}")
        for line in described(file.app):
            console.print(f"  {line}", soft_wrap=True, highlight=False)
        console.print("derived:")
        for line in derivations(file.app):
            console.print(f"  {line}", soft_wrap=True, highlight=False)
        _print_cautions(cautions(file.app), console)


def _pinned(file: ServeFile) -> ServeFile:
    return file.model_copy(update={"app": pinned(file.app)})


def _print_cautions(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(f"[yellow]mind[/yellow]: {escape(line)}", soft_wrap=True, highlight=False)


def _print_changes(found: Sequence[Change], console: Console) -> None:
    if not found:
        console.print("nothing changes")
    for change in found:
        settings = f" ({', '.join(change.settings)})" if change.settings else ""
        console.print(f"{change.deployment}: {change.effect.value}{settings}", soft_wrap=True, highlight=False)


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
