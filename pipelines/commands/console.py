"""What all commands have in common: which configuration they read, and what a person sees of an error. Decides nothing else."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stages.contract.errors import TriptychError

DEFAULT_CONFIG = Path(__file__).parents[2] / "serve_config.yaml"

ConfigPath = Annotated[Path, typer.Option("--config", help="a Ray Serve config file with Triptych's application")]


class errors:
    """Turns the errors a person can act on into one red message and exit code 2."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TriptychError):
            self._console.print(f"[bold red]error[/bold red]: {error.message}", soft_wrap=True, highlight=False)
            sys.exit(2)
