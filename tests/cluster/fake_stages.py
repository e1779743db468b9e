"""Builds deployments as `pipelines/cluster/stage_deployment.py` does, with a stage that needs no model library in place of each
CLIP embedder."""

import time
from collections.abc import Hashable, Sequence

import numpy as np
from ray.serve import Application

from pipelines.cluster.stage_deployment import PlacedReplica, hosted_in
from pipelines.settings.serve.applications import StagesArgs
from stages.checkpoints.checkpoint import resolve
from stages.contract.recipe import Inputs
from stages.contract.work import Work
from stages.host.kinds.registry import part_files
from stages.vision.messages import Embedding, EmbedInput
from stages.vision.work import EmbeddingWork

WORK = EmbeddingWork(text=Work(77.0), image=Work(49.0))


class UnitEmbedder:
    """An `OneShotStage`: every input is the same point, in a space of four. What it weighs is what callers are told of it (`work`)."""

    device = "cpu"
    result_type = Embedding

    def __init__(self, work: EmbeddingWork = WORK) -> None:
        self._work = work

    def check(self, payload: EmbedInput) -> None: ...

    def weigh(self, payload: EmbedInput) -> float:
        return (self._work.text if payload.image is None else self._work.image).amount

    def prepare(self, payload: EmbedInput, inputs: Inputs) -> EmbedInput:
        return payload

    def batch_key(self, item: EmbedInput) -> Hashable:
        return None

    def cost(self, item: EmbedInput) -> float:
        return self.weigh(item)

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
                self.embedder(EmbeddingWork.load(resolve(stage.source, part_files(stage).without_weights()))),
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
