"""The demo models through a running server: what `demo.evaluate --server URL` measures.

Decides the requests and how many run at once. Knows the server only by its OpenAI API.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from openai import OpenAI
from PIL import Image

from demo.painter import GUIDANCE, NUM_STEPS
from demo.world import SIZE

_TIMEOUT_S = 600.0
_MAX_TOKENS = 40
_EMBEDDED = 8  # inputs of one embeddings request: as many images as the shipped limits allow
R = TypeVar("R")


class ServedModels:
    """The first model of each pipeline that the server at `url` lists; at most `concurrency` requests at once.

    Raises openai.OpenAIError for an answer that is no success.
    """

    def __init__(self, url: str, concurrency: int) -> None:
        base = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        self._client = OpenAI(base_url=base, api_key="none", timeout=_TIMEOUT_S)
        self._concurrency = concurrency
        self._names: dict[str, str] = {}
        for model in self._client.models.list():
            self._names.setdefault((model.model_extra or {})["triptych"]["pipeline"], model.id)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._embedded(list(texts))

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return self._embedded([_image_part(image) for image in images])

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return self._at_once(self._answer, list(zip(images, questions, strict=True)))

    def paint(self, sentences: Sequence[str], first_seed: int) -> list[Image.Image]:
        return self._at_once(self._paint, list(zip(sentences, range(first_seed, first_seed + len(sentences)), strict=True)))

    def _at_once(self, work: Callable[..., R], arguments: list[tuple[Any, ...]]) -> list[R]:
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda given: work(*given), arguments))

    def _answer(self, image: Image.Image, question: str) -> str:
        content: list[Any] = [_image_part(image), {"type": "text", "text": question}]
        found = self._client.chat.completions.create(
            model=self._names["image_text"],
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=_MAX_TOKENS,
        )
        return str(found.choices[0].message.content).strip()

    def _paint(self, sentence: str, seed: int) -> Image.Image:
        found = self._client.images.generate(
            model=self._names["text_to_image"],
            prompt=sentence,
            size=f"{SIZE}x{SIZE}",
            response_format="b64_json",
            extra_body={"seed": seed, "num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE},
        )
        data = base64.b64decode(str((found.data or [])[0].b64_json))
        return Image.open(io.BytesIO(data)).convert("RGB")

    def _embedded(self, inputs: list[Any]) -> NDArray[np.float32]:
        rows: list[list[float]] = []
        for start in range(0, len(inputs), _EMBEDDED):
            part = inputs[start : start + _EMBEDDED]
            rows += [row.embedding for row in self._client.embeddings.create(model=self._names["embed"], input=part).data]
        return np.asarray(rows, np.float32)


def _image_part(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, format="PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": address}}
