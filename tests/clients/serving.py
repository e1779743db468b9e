"""What the clients' tests ask: the models of `serve_config.yaml` in this process, behind the HTTP surface on a loopback port.

Decides which settings: the shipped ones, but that the chat model, whose template knows no tools, may choose to call one. Knows no client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from pipelines.settings.schema.config import AppConfig
from tests.cluster.server import shipped_config
from tests.pipelines.ingress.surface import server_for


def demo_models() -> AppConfig:
    args = shipped_config()["applications"][0]["args"]
    args["models"]["triptych-see"]["tools"] = "hermes"
    return parse(args)


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Yields the address."""
    config = demo_models()
    async with one_process(config) as service, server_for(service, settings_of(config)) as address:
        yield address
