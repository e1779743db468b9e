"""A process of its own that takes a model from a hub, as the environment says: huggingface_hub reads that when it is imported.

`python -m tests.models.hub_process '{"config": ..., "do": "resolve" | "load" | "serve" | "pin", "stage": "MODEL.PART"}'` prints one
JSON object.
"""

import json
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pipelines.client import Again, Visit
from pipelines.jobs import StageCard
from pipelines.settings.config_file import parse
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.serve.specs import stage_specs
from stages.contract.errors import ConfigurationError
from stages.contract.item import DEFAULT_TENANT, Item, Reply, StageMetrics


class Nobody:
    """Stages and their directory, for a process that only prepares what it would send them."""

    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        raise NotImplementedError

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        raise NotImplementedError

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        raise NotImplementedError

    async def stream(
        self, stage: str, item: Item[Any], *, again: Again | None = None, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        raise NotImplementedError
        yield

    async def cards(self) -> Sequence[StageCard]:
        raise NotImplementedError

    async def metrics(self) -> Sequence[StageMetrics]:
        raise NotImplementedError


def answer(config: AppConfig, do: str, stage: str) -> dict[str, object]:
    if do == "pin":
        from pipelines.settings.pinning import pinned

        return {"sources": [str(spec.source) for spec in stage_specs(pinned(config)).values()]}
    if do == "serve":
        from pipelines.service import Triptych
        from pipelines.threads import Threads

        service = Triptych(config, Nobody(), Nobody(), Threads.new())
        return {"models": [card.id for card in service.models()]}
    from stages.checkpoints.checkpoint import resolve
    from stages.host.kinds.registry import load, part_files

    spec = stage_specs(config)[stage]
    checkpoint = resolve(spec.source, part_files(spec))
    if do == "load":
        load(spec)
    return {"commit": checkpoint.commit, "fingerprint": spec.whole()}


def main() -> None:
    task = json.loads(sys.argv[1])
    try:
        print(json.dumps(answer(parse(task["config"]), task["do"], task.get("stage", ""))))
    except ConfigurationError as error:
        print(json.dumps({"error": error.message}))


if __name__ == "__main__":
    main()
