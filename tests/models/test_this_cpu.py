"""The shipped configuration on whatever CPU this is, and (as `make test` runs it once more) on one limited to AVX2: the demo's
models answer and paint rightly in the dtype that was chosen for it."""

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from demo.held_out import example
from demo.measuring.detector import describe
from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import load
from tests.pipelines.ingress.surface import JsonObject, client_for

pytestmark = [pytest.mark.cpu, pytest.mark.models, pytest.mark.timeout(900)]
SHIPPED = Path(__file__).parents[2] / "serve_config.yaml"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    config = load(SHIPPED).app
    async with one_process(config) as service, client_for(service, settings_of(config)) as client:
        yield client


async def test_the_demos_models_answer_and_paint_in_a_dtype_that_this_cpu_computes_well(client: httpx.AsyncClient) -> None:
    shown = example()
    address = "data:image/png;base64," + base64.b64encode(shown.image_png).decode()
    image = {"type": "image_url", "image_url": {"url": address}}
    seen = await asked(client, [image, {"type": "text", "text": shown.question}])
    known = await asked(client, "What is the capital of France?")
    painted = await posted(client, "/v1/images/generations", model="triptych-paint", prompt=shown.sentence, seed=7)
    entry = (await client.get("/v1/models/triptych-see")).json()["triptych"]
    assert seen["choices"][0]["message"]["content"].strip() == shown.answer
    assert "Paris" in known["choices"][0]["message"]["content"]
    found = describe(Image.open(io.BytesIO(base64.b64decode(painted["data"][0]["b64_json"]))))
    assert found is not None
    assert found.canonical() == shown.sentence
    used = {stage["stage"]: stage["dtype"] for answer in (seen, painted) for stage in answer["triptych"]["stages"]}
    assert {stage["name"]: stage["dtype"] for stage in entry["stages"]} == {
        name: dtype for name, dtype in used.items() if name.startswith("triptych-see")
    }
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert set(used.values()) == {"float32"}


async def asked(client: httpx.AsyncClient, content: object) -> JsonObject:
    messages = [{"role": "user", "content": content}]
    return await posted(client, "/v1/chat/completions", model="triptych-see", messages=messages, temperature=0, max_tokens=32)


async def posted(client: httpx.AsyncClient, path: str, **body: object) -> JsonObject:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
