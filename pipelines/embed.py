"""Texts and images into one space. Straight-line code over one stage's name; knows no HTTP and no tensors."""

from cache.keys import digest, name
from pipelines.client import StageClient, Visit
from pipelines.context import RequestContext
from pipelines.jobs import Embedded, EmbedJob, ImagePart, TextPart
from pipelines.threads import Threads
from stages.concurrency.together import together
from stages.contract.errors import InvalidRequest
from stages.contract.work import Work
from stages.vision.messages import Embedding, EmbedInput
from stages.vision.work import EmbeddingWork


class ClipEmbedPipeline:
    """One served model. `fingerprint` names towers, tokenizer and preprocessing."""

    def __init__(
        self, model: str, client: StageClient, work: EmbeddingWork, *, threads: Threads, fingerprint: str, max_pixels: int
    ) -> None:
        self._embedder = f"{model}.embedder"
        self._client, self._work, self._threads = client, work, threads
        self._fingerprint, self._max_pixels = fingerprint, max_pixels

    async def embed(self, job: EmbedJob, context: RequestContext) -> Embedded:
        works = [self._work.text if isinstance(part, TextPart) else self._work.image for part in job.inputs]
        visit = Visit(self._embedder, Work(sum(work.amount for work in works)))
        self._client.admit(
            [visit], deadline=context.deadline, priority=context.priority, tenant=context.tenant, asked=context.asked
        )
        results = await together(self._one(index, part, context) for index, part in enumerate(job.inputs))
        return Embedded(
            vectors=tuple(result.embedding for result in results),
            num_tokens=sum(int(result.num_tokens) for result in results),
        )

    async def _one(self, index: int, part: TextPart | ImagePart, context: RequestContext) -> Embedding:
        payload, content, kind = await self._payload(part)
        key = name("clip_embedding", weights=self._fingerprint, tenant=context.salt, input=kind, content=content)
        try:
            work = self._work.text if payload.image is None else self._work.image
            item = context.item(str(index), payload, name=key, work=work)
            reply = await self._client.call(self._embedder, item, lost=context.lost_replicas)
        except InvalidRequest as error:
            raise error.for_request(part.param) from error.__cause__
        context.add(*reply.receipts)
        result: Embedding = reply.value
        return result

    async def _payload(self, part: TextPart | ImagePart) -> tuple[EmbedInput, str, str]:
        if isinstance(part, TextPart):
            return EmbedInput(text=part.text), digest(part.text.encode()), "text"
        content = await self._threads.digests.run(len(part.data), digest, part.data)
        return EmbedInput(image=part.data, max_pixels=self._max_pixels), content, "image"
