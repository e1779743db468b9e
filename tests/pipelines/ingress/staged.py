"""The HTTP surface's `Service` with the real pipelines, in this process, over small stages whose devices wait for the test."""

from typing import Any

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient, StageClient
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.complete import CompletionPipeline
from pipelines.embed import ClipEmbedPipeline
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import ChatPipeline, EmbedPipeline, PaintPipeline, TextPipeline
from pipelines.text_to_image import TextToImagePipeline
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest
from stages.contract.recipe import Inputs
from stages.contract.trace import NO_TRACER, Tracer
from stages.contract.work import Work
from stages.diffusion.messages import Denoise
from stages.host.host import Stage, StageHost
from stages.llm.messages import Generate
from stages.vision.messages import Embedding, EmbedInput
from stages.vision.work import EmbeddingWork
from tests.pipelines.cluster.fake_serve import FakeDeployment
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService
from tests.pipelines.stages import FakeDenoiser, FakeLlm, Given, OneShot, embedder, text_encoder, vae_decoder
from tests.pipelines.test_complete import LetterTexts
from tests.pipelines.test_image_text import Letters
from tests.pipelines.test_text_to_image import RULES, Steps, Words
from tests.stages.fakes import Gate

BAD_SEED, BAD_TEXT = 5, "bad"


class PickyEmbedder(OneShot[EmbedInput]):
    def __init__(self) -> None:
        self.refusing = Gate(closed=True)
        super().__init__(Embedding, embedder()._make)

    def prepare(self, payload: EmbedInput, inputs: Inputs) -> EmbedInput:
        if payload.text == BAD_TEXT:
            self.refusing.pass_through()
            raise InvalidRequest("it is bad", param="text")
        return payload


class PickyLlm(FakeLlm):
    def __init__(self) -> None:
        super().__init__()
        self.refusing = Gate(closed=True)

    def prepare(self, payload: Generate, inputs: Inputs) -> Given:
        if payload.sampling.seed == BAD_SEED:
            self.refusing.pass_through()
            raise InvalidRequest("it is bad", param="seed")
        return super().prepare(payload, inputs)


class PickyDenoiser(FakeDenoiser):
    def __init__(self) -> None:
        super().__init__()
        self.refusing = Gate(closed=True)

    def prepare(self, payload: Denoise, inputs: Inputs) -> Given:
        if payload.seed == BAD_SEED:
            self.refusing.pass_through()
            raise InvalidRequest("it is bad", param="seed")
        return super().prepare(payload, inputs)


class Staged(FakeService):
    """The real pipelines. What is bad is refused once `refusing` is open. `is_served`: its stages are reached as Ray Serve's are."""

    def __init__(self, *, is_served: bool = False, tracer: Tracer = NO_TRACER) -> None:
        super().__init__()
        self._threads = Threads.new()
        self.embedder, self.llm, self.denoiser = PickyEmbedder(), PickyLlm(), PickyDenoiser()
        self.text, self.decoder = text_encoder(), vae_decoder()
        self.host = StageHost(cache=TieredCache([MemoryTier(2**27)]), tracer=tracer)
        stages: dict[str, Stage] = {
            f"{EMBED}.embedder": self.embedder,
            f"{CHAT}.llm": self.llm,
            f"{PAINT}.denoiser": self.denoiser,
            f"{PAINT}.text_encoder": self.text,
            f"{PAINT}.vae_decoder": self.decoder,
        }
        for name, stage in stages.items():
            self.host.add(name, stage)
        self._client: StageClient = LocalStageClient(self.host)
        if is_served:
            handles: Any = {"d": FakeDeployment(lambda: self.host, max_ongoing=512).handle}
            self._client = ServeStageClient(handles, dict.fromkeys(stages, ("d",)))

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        return ClipEmbedPipeline(
            model, self._client, EmbeddingWork(Work(77), Work(49)), threads=self._threads, fingerprint="f", max_pixels=100
        )

    def chat_pipeline(self, model: str) -> ChatPipeline:
        return ImageTextPipeline(
            model,
            self._client,
            Letters(),
            threads=self._threads,
            vision_fingerprint=None,
            max_pixels=100,
            max_context_tokens=1000,
            chunk_tokens=256,
        )

    def text_pipeline(self, model: str) -> TextPipeline:
        return CompletionPipeline(
            model, self._client, LetterTexts(), threads=self._threads, max_context_tokens=1000, chunk_tokens=256
        )

    def paint_pipeline(self, model: str) -> PaintPipeline:
        return TextToImagePipeline(
            model,
            self._client,
            RULES,
            Words(),
            Steps(),
            threads=self._threads,
            text_fingerprint="text",
            vae_fingerprint=None,
            max_image_pixels=100,
        )

    async def close(self) -> None:
        for stage in (self.embedder, self.llm, self.denoiser):
            stage.refusing.open()
            stage.gate.open()
        await self.host.close()
        self._threads.close()

    def counted(self, stage: str, name: str) -> float:
        return next(metrics.counters[name] for metrics in self.host.metrics() if metrics.stage == stage)
