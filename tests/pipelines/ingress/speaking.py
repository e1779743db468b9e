"""The HTTP surface's `Service` with the real chat pipeline, over a model that says what the test has it say."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import openai

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import ChatPipeline
from pipelines.threads import Threads
from pipelines.tools.dialect import Dialect
from stages.host.host import StageHost
from stages.llm.messages import Generate
from tests.pipelines.ingress.fakes import CHAT, FakeService
from tests.pipelines.ingress.surface import JsonObject, client_for, server_for
from tests.pipelines.stages import SayingLlm
from tests.pipelines.test_image_text import Letters

PIECE = 3  # characters that come at a time


class Speaking(FakeService):
    """`begun`: what the prompt ends with; `variables`: what its template looks at."""

    def __init__(
        self, said: str, dialect: Dialect, *, begun: str = "", reason: str = "stop", variables: Collection[str] = ()
    ) -> None:
        super().__init__()
        self._threads = Threads.new()
        self.llm = SayingLlm([said[at : at + PIECE] for at in range(0, len(said), PIECE)], reason)
        self.prompts = Letters(dialect, begun, variables)
        self.host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
        self.host.add(f"{CHAT}.llm", self.llm)

    def chat_pipeline(self, model: str) -> ChatPipeline:
        return ImageTextPipeline(
            model,
            LocalStageClient(self.host),
            self.prompts,
            threads=self._threads,
            vision_fingerprint=None,
            max_pixels=100,
            max_context_tokens=1000,
            chunk_tokens=256,
        )

    @property
    def asked(self) -> Generate:
        """What the model was asked, once."""
        (payload,) = self.llm.started
        return payload

    async def close(self) -> None:
        await self.host.close()
        self._threads.close()


@asynccontextmanager
async def spoken_to(service: Speaking) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client of it."""
    async with (
        server_for(service) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client
    await service.close()


async def posted(service: Speaking, body: JsonObject) -> tuple[int, JsonObject]:
    """Status and body of an answer that is not streamed."""
    async with client_for(service) as http:
        response = await http.post("/v1/chat/completions", json=body)
    await service.close()
    return response.status_code, response.json()
