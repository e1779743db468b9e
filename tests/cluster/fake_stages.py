"""Builds deployments as `pipelines/cluster/stage_deployment.py` does, with a stage that needs no model library in place of each
CLIP embedder."""

import time
from collections.abc import Hashable, Sequence

import numpy as np
from ray.serve import Application

from pipelines.cluster.stage_deployment import PlacedReplica, hosted_in
from pipelines.settings.serve.applications import StagesArgs
from stages.contract.recipe import Inputs
from stages.vision.messages import Embedding, EmbedInput


class UnitEmbedder:
    """An `OneShotStage`: every input is the same point, in a space of four."""

    device = "cpu"
    result_type = Embedding

    def check(self, payload: EmbedInput) -> None: ...

    def weigh(self, payload: EmbedInput) -> float:
        return 1.0

    def prepare(self, payload: EmbedInput, inputs: Inputs) -> EmbedInput:
        return payload

    def batch_key(self, item: EmbedInput) -> Hashable:
        return None

    def cost(self, item: EmbedInput) -> float:
        return 1.0

    def run(self, batch: Sequence[EmbedInput]) -> Sequence[Embedding]:
        return [Embedding(np.full(4, 0.5, np.float32), np.asarray(1)) for _ in batch]


class SlowEmbedder(UnitEmbedder):
    """Half a second a batch."""

    def run(self, batch: Sequence[EmbedInput]) -> Sequence[Embedding]:
        time.sleep(0.5)
        return super().run(batch)


class FakeReplica(PlacedReplica):
    embedder: type[UnitEmbedder] = UnitEmbedder

    def __init__(self, args: StagesArgs) -> None:
        super().__init__(args.model_copy(update={"stages": {}}))
        for stage in args.spec().stages:
            self.host.add(
                stage.name,
                self.embedder(),
                batch=stage.batch,
                queue=stage.queue,
                dtype=stage.options.dtype,
                contents=stage.contents(),
            )


class SlowReplica(FakeReplica):
    embedder = SlowEmbedder


def stages(args: StagesArgs) -> Application:
    return hosted_in(FakeReplica, args, {})


def slow_stages(args: StagesArgs) -> Application:
    return hosted_in(SlowReplica, args, {})
