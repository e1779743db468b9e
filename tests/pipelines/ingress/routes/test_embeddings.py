"""POST /v1/embeddings: texts, images and both, as numbers and as base64."""

import base64
from typing import Any

import numpy as np
import pytest

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import EmbedJob, ImagePart, TextPart
from pipelines.settings.schema.config import LimitsConfig
from tests.pipelines.ingress.fakes import EMBED, WIDTH, FakeService
from tests.pipelines.ingress.surface import JsonObject, client_for, data_url, error_of, image_part, png

PATH = "/v1/embeddings"


async def embedded(given: Any, service: FakeService | None = None, **fields: Any) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, json={"model": EMBED, "input": given, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def refused(body: JsonObject, settings: IngressSettings | None = None) -> JsonObject:
    async with client_for(FakeService(), settings) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 400, response.text
    return error_of(response)


async def test_one_text_has_one_unit_vector_and_its_tokens_are_counted() -> None:
    body = await embedded("a small boat")
    (entry,) = body["data"]
    assert (entry["object"], entry["index"], len(entry["embedding"])) == ("embedding", 0, WIDTH)
    assert np.linalg.norm(entry["embedding"]) == pytest.approx(1.0)
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert body["triptych"]["stages"][0]["stage"] == f"{EMBED}.embedder"


async def test_base64_holds_the_same_numbers() -> None:
    numbers = (await embedded("boat"))["data"][0]["embedding"]
    packed = (await embedded("boat", encoding_format="base64"))["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), dtype="<f4").tolist() == numbers


async def test_texts_and_images_mix_and_keep_their_order() -> None:
    service = FakeService()
    body = await embedded(["boat", image_part(png(5, 6)), {"type": "text", "text": "hut"}], service)
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    (job,) = service.jobs
    assert isinstance(job, EmbedJob)
    text, image, other = job.inputs
    assert (text, other) == (TextPart("boat"), TextPart("hut"))
    assert isinstance(image, ImagePart)
    assert (image.width, image.height) == (5, 6)


@pytest.mark.parametrize(
    ("given", "params"),
    [
        ("boat", ["input"]),
        (["boat"], ["input[0]"]),
        ({"type": "text", "text": "hut"}, ["input.text"]),
        (["boat", {"type": "text", "text": "hut"}, image_part()], ["input[0]", "input[1].text", "input[2].image_url.url"]),
    ],
)
async def test_every_input_knows_its_field_in_the_request(given: Any, params: list[str]) -> None:
    service = FakeService()
    await embedded(given, service)
    (job,) = service.jobs
    assert isinstance(job, EmbedJob)
    assert [part.param for part in job.inputs] == params


async def test_a_single_image_needs_no_list() -> None:
    assert len((await embedded(image_part()))["data"]) == 1


async def test_a_string_is_text_even_where_it_looks_like_an_image() -> None:
    service = FakeService()
    await embedded(data_url(png()), service)
    (job,) = service.jobs
    assert isinstance(job, EmbedJob)
    assert isinstance(job.inputs[0], TextPart)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2, 3]]}, "input"),
        ({"input": None}, "input"),
        ({"input": "x", "dimensions": 4}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": [image_part(b"nothing")]}, "input[0].image_url.url"),
        ({"input": image_part(b"nothing")}, "input.image_url.url"),
        ({"input": {"type": "image_url", "image_url": {"url": 1}}}, "input.image_url.url"),
        ({"input": ["x", {"type": "audio"}]}, "input[1].type"),
    ],
)
async def test_a_wrong_value_is_told_with_its_field(fields: JsonObject, param: str) -> None:
    assert (await refused({"model": EMBED, **fields}))["param"] == param


async def test_more_inputs_images_or_text_than_configured_are_refused_with_the_setting() -> None:
    settings = IngressSettings(LimitsConfig(embedding_inputs=2, images_per_request=1, prompt_chars=3))
    for given, setting in (
        (["a", "b", "c"], "limits.embedding_inputs"),
        ([image_part(), image_part()], "limits.images_per_request"),
        (["abcd"], "limits.prompt_chars"),
    ):
        assert setting in (await refused({"model": EMBED, "input": given}, settings))["message"]
