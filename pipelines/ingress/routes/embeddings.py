"""POST /v1/embeddings: from its body to an `EmbedJob`, and from vectors to the answer. Knows no stages."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from pipelines.context import RequestContext, TokenUsage
from pipelines.ingress.images.image_url import ImageSource, WantedImage
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.limits import check_count, check_length
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.whole_answer import WholeAnswer, listed
from pipelines.ingress.schemas.embeddings import (
    EmbeddingEntry,
    EmbeddingInput,
    EmbeddingsAnswer,
    EmbeddingsBody,
    EmbeddingsUsage,
    ImageInput,
    TextInput,
)
from pipelines.jobs import Embedded, EmbedJob, TextPart
from pipelines.threads import Threads


@dataclass(frozen=True, slots=True)
class EmbeddingsRoute:
    arrival: Arrival
    settings: IngressSettings
    images: ImageSource
    receipts: ReceiptPrinter
    threads: Threads

    async def __call__(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, EmbeddingsBody, context)
        pipeline = self.arrival.served(context.tenant).embed_pipeline(body.model)
        job = await unless_gone(request.receive, context, self._job(body))
        model, as_base64 = body.model, body.encoding_format == "base64"
        del body
        embedded = await unless_gone(request.receive, context, pipeline.embed(job, context))
        return WholeAnswer(await self.threads.answers.run(self._answer, model, embedded, as_base64, context))

    async def _job(self, body: EmbeddingsBody) -> EmbedJob:
        whole = isinstance(body.input, list)
        inputs: Sequence[EmbeddingInput] = body.input if isinstance(body.input, list) else [body.input]
        self._check(inputs)
        params = [f"input[{index}]" if whole else "input" for index in range(len(inputs))]
        asked = list(zip(inputs, params, strict=True))
        wanted = [
            WantedImage(given.image_url.url, f"{param}.image_url.url")
            for given, param in asked
            if isinstance(given, ImageInput)
        ]
        images = iter(await self.images.load(wanted))
        return EmbedJob(
            tuple(next(images) if isinstance(given, ImageInput) else _text_part(given, param) for given, param in asked)
        )

    def _check(self, inputs: Sequence[EmbeddingInput]) -> None:
        limits = self.settings.limits
        num_images = sum(isinstance(given, ImageInput) for given in inputs)
        check_count(len(inputs), limits, "embedding_inputs", param="input", holds="inputs")
        check_count(num_images, limits, "images_per_request", param="input", holds="images")
        check_length(sum(len(_text(given)) for given in inputs), limits, param="input")

    def _answer(self, model: str, embedded: Embedded, as_base64: bool, context: RequestContext) -> Sequence[bytes]:
        """The body, as JSON in pieces: one a vector."""
        context.usage = TokenUsage(embedded.num_tokens)
        before, after = EmbeddingsAnswer(
            object="list",
            model=model,
            data=[],
            usage=EmbeddingsUsage(prompt_tokens=embedded.num_tokens, total_tokens=embedded.num_tokens),
            triptych=self.receipts.receipt(context),
        ).around("data")
        entries = [
            [EmbeddingEntry(object="embedding", index=index, embedding=_written(vector, as_base64)).to_json()]
            for index, vector in enumerate(embedded.vectors)
        ]
        return [before, *listed(entries), after]


def _text_part(given: str | TextInput, param: str) -> TextPart:
    return TextPart(given, param) if isinstance(given, str) else TextPart(given.text, f"{param}.text")


def _text(given: EmbeddingInput) -> str:
    if isinstance(given, str):
        return given
    return "" if isinstance(given, ImageInput) else given.text


def _written(vector: NDArray[np.float32], as_base64: bool) -> list[float] | str:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
