"""How many hands a request passes through, from its bytes to the answer's: hops between modules (`walk.py`), of the shipped
configuration in one process, without Ray.

`python -m benchmarks.hops` (under a minute on 2 cores). Counts nothing that depends on time, so the machine need not be quiet: a
chat, a chat about a new image, the same one again, and a painting, each after two others of its kind. Behind Ray Serve each stage
that is asked adds a call and its reply between processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from benchmarks.loads.http_client import post
from benchmarks.overhead.beside_models import Kind, kinds
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import ROOT, Report
from benchmarks.servers.triptych import shipped_config
from benchmarks.walk import Walk
from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from pipelines.settings.schema.config import AppConfig

OURS = ("pipelines", "stages", "cache")
WARM_UP = 2
NEW_IMAGE, REMEMBERED_IMAGE = "chat about a new image", "chat about a remembered image"


def asked(num_bodies: int) -> Sequence[Kind]:
    """As many different requests of each kind."""
    chat, about_image, painting = kinds(num_bodies)

    def about_the_same(index: int) -> dict[str, Any]:
        body: dict[str, Any] = about_image.body(0)
        body["messages"][0]["content"][-1]["text"] = f"What is this, {index}?"
        return body

    return (
        chat,
        replace(about_image, name=NEW_IMAGE),
        replace(about_image, name=REMEMBERED_IMAGE, body=about_the_same),
        replace(painting, name="painting"),
    )


async def walked(config: AppConfig, report: Report, walk: Walk) -> None:
    async with one_process(config) as service:
        transport = httpx.ASGITransport(create_app(service, settings_of(config)), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=300) as client:
            for each in asked(WARM_UP + 1):
                for index in range(WARM_UP):
                    await post(client, each.path, each.body(index))
                with walk.counting():
                    await post(client, each.path, each.body(WARM_UP))
                _add(report, each, walk)


def _add(report: Report, each: Kind, walk: Walk) -> None:
    calls = each.num_calls + each.num_streams
    by_folder = walk.by_folder()
    tell(f"{each.name}: {len(walk.hops)} hops")
    report.add(
        request=each.name,
        hops=len(walk.hops),
        **{folder: by_folder[folder] for folder in OURS},
        from_loop_or_thread=walk.num_from_outside,
        modules=len(walk.modules),
        threads=len(walk.threads),
        calls_between_processes_on_serve=calls,
    )


def main() -> None:
    quick = start(__doc__)
    walk = Walk(ROOT, OURS)
    args = shipped_config()["applications"][0]["args"] | {"cache": {"redis": None}, "profiles": ""}
    report = Report("hops", {"warm_up": WARM_UP})
    try:
        asyncio.run(walked(parse(args), report, walk))
    finally:
        walk.close()
    report.publish(results_folder(quick=quick))


if __name__ == "__main__":
    main()
