"""`triptych top`: a live table of stages and their pools, read of a running server's /metrics and of nothing else.

Decides how often it is read and what a person is told where there is nothing to show; what the numbers mean is in `stage_rows.py`.
"""

import time
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.commands.console import errors, shown
from pipelines.commands.stage_rows import Scrape, StageRow, Surface, scrape_of, stage_rows, surface_of
from stages.contract.errors import ConfigurationError

READ_WITHIN_S = 10.0
COLUMNS = (
    "stage",
    "pool",
    "on",
    "replicas",
    "queued",
    "inputs",
    "rows",
    "batch",
    "busy",
    "items/s",
    "tokens/s",
    "queue p95",
    "step p50",
    "first p95",
    "hits",
)


def top(
    url: Annotated[str, typer.Option(help="of the running server")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="TRIPTYCH_API_KEY", help="an API key, where the server asks for one")] = "",
    every: Annotated[float, typer.Option(min=0.2, max=60, help="seconds between two looks")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="print one table, of all that was since the server's start, and end")
    ] = False,
) -> None:
    """Shows what every stage does, until Ctrl-C: what waits, what runs, how fast, and how much is found instead of made."""
    console = Console()
    with errors(console):
        before, now = None, _read(url, key)
        if once:
            wide = console if console.is_terminal else Console(width=200)
            wide.print(drawn(before, now))
            return
        try:
            with Live(drawn(before, now), console=console, screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(every)
                    before, now = now, _read(url, key)
                    live.update(drawn(before, now), refresh=True)
        except KeyboardInterrupt:
            return


def drawn(before: Scrape | None, now: Scrape) -> RenderableType:
    """What is between two looks; without an earlier one, what was since the start."""
    return Group(_head(surface_of(before, now), is_since_start=before is None), _table(stage_rows(before, now)))


def _read(url: str, key: str) -> Scrape:
    """Raises `ConfigurationError` where there is no server, or it doesn't tell."""
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url}/metrics", headers=headers, timeout=READ_WITHIN_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"{url} does not answer: {error}") from None
    if answer.status_code != 200:
        raise ConfigurationError(
            f"{url}/metrics answers {answer.status_code}; a key is given with --key, or in TRIPTYCH_API_KEY"
        )
    scrape = scrape_of(answer.text, time.monotonic())
    if not scrape.tells_of_stages:
        raise ConfigurationError("this key's tenant is shown its own requests only; auth.operators names those who see stages")
    return scrape


def _head(surface: Surface, *, is_since_start: bool) -> Text:
    asked = (
        f"{surface.num_requests:.0f} requests since the start" if is_since_start else f"{surface.requests_s:.1f} requests/s"
    )
    told = f"{asked}, {surface.running:.0f} being answered by {surface.replicas} HTTP replicas"
    refused = (
        f", {surface.refused_s:.1f}/s refused, {surface.failed_s:.1f}/s failed"
        if surface.refused_s or surface.failed_s
        else ""
    )
    return Text(told + refused)


def _table(rows: list[StageRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 3 else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            shown(row.stage),
            shown(row.pool),
            shown(row.device),
            str(row.replicas),
            f"{row.queued:.0f}",
            f"{row.waiting_for_inputs:.0f}",
            f"{row.running:.0f}/{row.room:.0f}",
            _number(row.batch_size, 1),
            _share(row.busy),
            _number(row.items_s, 1),
            _number(row.tokens_s, 1),
            _time(row.queue_p95_s),
            _time(row.step_p50_s),
            _time(row.first_p95_s),
            _share(row.hits),
            style="yellow" if row.queued > row.room else "",
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
