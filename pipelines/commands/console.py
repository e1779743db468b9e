"""What all commands have in common: which configuration they read, and what a person sees of an error. Decides nothing else."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stages.contract.errors import TriptychError

DEFAULT_CONFIG = Path(__file__).parents[2] / "serve_config.yaml"

ConfigPath = Annotated[Path, typer.Option("--config", help="a Ray Serve config file with Triptych's application")]

Overlays = Annotated[
    list[Path] | None,
    typer.Option(
        "--overlay",
        help="a file with what is otherwise than in the configuration; may be given several times, the last one wins",
    ),
]


def shown(text: str) -> str:
    """One line of anybody's words, to be printed as they are: they are no markup, and the terminal obeys nothing in them."""
    return escape("".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text))


class errors:
    """Turns the errors a person can act on into one red message and exit code 2."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TriptychError):
            message = "\n".join(map(shown, error.message.split("\n")))
            self._console.print(f"[bold red]error[/bold red]: {message}", soft_wrap=True, highlight=False)
            sys.exit(2)
