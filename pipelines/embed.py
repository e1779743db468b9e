"""Texts and pictures into one space. Straight-line code over one stage's name; knows no HTTP and no tensors."""

import asyncio

from cache.keys import digest, name
from pipelines.client import StageClient
from pipelines.context import RequestContext
from pipelines.jobs import Embedded, EmbedJob, ImagePart, TextPart
from stages.contract.errors import InvalidRequest
from stages.contract.item import Item
from stages.contract.result import Arrays
from stages.vision.messages import EmbedInput


class ClipEmbedPipeline:
    """One served model. `fingerprint` names towers, tokenizer, preprocessing and dtype."""

    def __init__(self, model: str, client: StageClient, *, fingerprint: str, max_pixels: int) -> None:
        self._embedder = f"{model}.embedder"
        self._client, self._fingerprint, self._max_pixels = client, fingerprint, max_pixels

    async def embed(self, job: EmbedJob, context: RequestContext) -> Embedded:
        results = await asyncio.gather(*[self._one(index, part, context) for index, part in enumerate(job.inputs)])
        return Embedded(
            vectors=tuple(result["embedding"] for result in results),
            num_tokens=sum(int(result["num_tokens"]) for result in results),
        )

    async def _one(self, index: int, part: TextPart | ImagePart, context: RequestContext) -> Arrays:
        work, content, kind = await self._work(part)
        key = name("clip_embedding", weights=self._fingerprint, tenant=context.salt, input=kind, content=content)
        item = Item(f"{context.id}:{index}", work, name=key, priority=context.priority, deadline=context.deadline)
        try:
            reply = await self._client.call(self._embedder, item)
        except InvalidRequest as error:
            at_fault = part.param if isinstance(part, ImagePart) else f"input[{index}]"
            raise error.for_request(at_fault) from error.__cause__
        context.add(reply.receipt)
        return reply.value

    async def _work(self, part: TextPart | ImagePart) -> tuple[EmbedInput, str, str]:
        if isinstance(part, TextPart):
            return EmbedInput(text=part.text), digest(part.text.encode()), "text"
        content = await asyncio.to_thread(digest, part.data)
        return EmbedInput(image=part.data, max_pixels=self._max_pixels), content, "image"
