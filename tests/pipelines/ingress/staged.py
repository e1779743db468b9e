"""The HTTP surface's `Service` with the real pipelines, in this process, over small stages whose devices wait for the test."""

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.embed import ClipEmbedPipeline
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import ChatPipeline, EmbedPipeline, PaintPipeline
from pipelines.text_to_image import TextToImagePipeline
from stages.contract.errors import InvalidRequest
from stages.contract.recipe import Inputs
from stages.diffusion.messages import Denoise
from stages.host.host import StageHost
from stages.llm.messages import Generate
from stages.vision.messages import Embedding, EmbedInput
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService
from tests.pipelines.stages import FakeDenoiser, FakeLlm, Given, OneShot, embedder, text_encoder, vae_decoder
from tests.pipelines.test_image_text import Letters
from tests.pipelines.test_text_to_image import RULES, Words
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
    """The real pipelines. The last piece of each request is refused, once `refusing` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder, self.llm, self.denoiser = PickyEmbedder(), PickyLlm(), PickyDenoiser()
        self.text, self.decoder = text_encoder(), vae_decoder()
        self.host = StageHost(cache=TieredCache([MemoryTier(2**27)]))
        self.host.add(f"{EMBED}.embedder", self.embedder)
        self.host.add(f"{CHAT}.llm", self.llm)
        self.host.add(f"{PAINT}.denoiser", self.denoiser)
        self.host.add(f"{PAINT}.text_encoder", self.text)
        self.host.add(f"{PAINT}.vae_decoder", self.decoder)
        self._client = LocalStageClient(self.host)

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        return ClipEmbedPipeline(model, self._client, fingerprint="f", max_pixels=100)

    def chat_pipeline(self, model: str) -> ChatPipeline:
        return ImageTextPipeline(
            model, self._client, Letters(), vision_fingerprint=None, max_pixels=100, max_context_tokens=1000
        )

    def paint_pipeline(self, model: str) -> PaintPipeline:
        return TextToImagePipeline(
            model,
            self._client,
            RULES,
            Words(),
            text_fingerprint="text",
            vae_fingerprint=None,
            max_picture_pixels=100,
        )

    async def close(self) -> None:
        for stage in (self.embedder, self.llm, self.denoiser):
            stage.refusing.open()
            stage.gate.open()
        await self.host.close()

    def counted(self, stage: str, name: str) -> float:
        return next(metrics.counters[name] for metrics in self.host.metrics() if metrics.stage == stage)
