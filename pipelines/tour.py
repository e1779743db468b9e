"""What `make demo` shows: a question about an image, answered token by token, and an image painted from a sentence.

A client like any other: it speaks to the server over HTTP with the `openai` SDK, and shows each request's receipt.
"""

import base64
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from demo.held_out import example
from pipelines.settings.schema.config import AppConfig


def tour(url: str, config: AppConfig, folder: Path, console: Console) -> None:
    """Asks about a held-out image, paints a held-out sentence; writes both PNGs into `folder`."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300)
    folder.mkdir(parents=True, exist_ok=True)
    models = {model.pipeline: name for name, model in reversed(config.models.items())}
    ask(client, models["image_text"], folder, console)
    paint(client, models["text_to_image"], folder, console)


def ask(client: OpenAI, model: str, folder: Path, console: Console) -> None:
    shown = example()
    image = folder / "question.png"
    image.write_bytes(shown.image_png)
    console.print(f"\n[bold]{shown.question}[/bold]  [dim](about {image})[/dim]")
    address = "data:image/png;base64," + base64.b64encode(shown.image_png).decode()
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": shown.question},
    ]
    receipt: Any = None
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=64, stream=True
    )
    for chunk in stream:
        receipt = (chunk.model_extra or {}).get("triptych", receipt)
        for choice in chunk.choices:
            console.print(choice.delta.content or "", end="", style="green", highlight=False)
    console.print()
    show_receipt(receipt, console)


def paint(client: OpenAI, model: str, folder: Path, console: Console) -> None:
    sentence = example().sentence
    console.print(f"\n[bold]paint: {sentence}[/bold]")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    receipt: Any = None
    with Progress(*columns, console=console) as progress:
        row = progress.add_task("denoising", total=None)
        stream = client.images.generate(
            model=model, prompt=sentence, stream=True, partial_images=2, extra_body={"seed": 7, "triptych": {"progress": True}}
        )
        for event in stream:
            extra = event.model_extra or {}
            if event.type == "image_generation.completed":
                (folder / "painted.png").write_bytes(base64.b64decode(event.b64_json))
                receipt = extra["triptych"]["receipt"]
            elif str(event.type) == "triptych.progress":
                progress.update(row, completed=extra["step"], total=extra["total"])
    console.print(f"painted [green]{folder / 'painted.png'}[/green]")
    show_receipt(receipt, console)


def show_receipt(receipt: Any, console: Console) -> None:
    """The receipt of one request as a table: what ran where, for how long, and what was remembered."""
    table = Table(title=None, box=None, header_style="dim", pad_edge=False)
    for column in ("stage", "device", "queue ms", "run ms", "batch", "steps", "cache"):
        table.add_column(column, justify="left" if column in ("stage", "device", "cache") else "right")
    for stage in receipt["stages"]:
        table.add_row(
            stage["stage"],
            stage["device"],
            f"{stage['queue_s'] * 1000:.0f}",
            f"{stage['run_s'] * 1000:.0f}",
            f"{stage['batch_size']:.1f}",
            str(stage["steps"]),
            stage["cache"],
        )
    console.print(table)
    console.print(f"[dim]device-seconds in all: {receipt['device_s']:.2f}[/dim]")
