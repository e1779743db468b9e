"""POST /v1/images/generations: what reaches the painter, images in every form, and the events of a stream."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import PaintJob, Trunk
from pipelines.settings.schema.config import LimitsConfig
from stages.contract.errors import StageFailed
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService, Trouble, gradient
from tests.pipelines.ingress.surface import JsonObject, client_for, error_of, sse_events

PATH = "/v1/images/generations"


def paint_body(**fields: Any) -> JsonObject:
    return {"model": PAINT, "prompt": "a boat", "seed": 5, **fields}


async def painted(body: JsonObject, service: FakeService | None = None) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def events_of(body: JsonObject) -> list[JsonObject]:
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, json={**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.text
    return sse_events(response.text)


async def refused(body: JsonObject) -> JsonObject:
    service = FakeService()
    async with client_for(service) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 400, response.text
    assert service.jobs == []
    return error_of(response)


def opened(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


async def test_an_image_comes_back_to_the_pixel_with_its_seed_and_a_receipt() -> None:
    body = await painted(paint_body(size="24x16"))
    assert (body["size"], body["output_format"], body["background"]) == ("24x16", "png", "opaque")
    (entry,) = body["data"]
    expected = gradient(PaintJob("a boat", width=24, height=16), 5, 1.0)
    np.testing.assert_array_equal(np.asarray(opened(entry["b64_json"])), expected)
    assert entry["triptych"] == {"index": 0, "seed": 5}
    assert [stage["stage"].rpartition(".")[2] for stage in body["triptych"]["stages"]] == [
        "text_encoder",
        "denoiser",
        "vae_decoder",
    ]


@pytest.mark.parametrize("place", ["top", "own"])
async def test_own_fields_are_taken_at_the_top_level_and_under_triptych(place: str) -> None:
    service = FakeService()
    own = {"negative_prompt": "fog", "num_inference_steps": 3, "guidance_scale": 2.5, "seed": 9, "scheduler": "ddim"}
    body: JsonObject = {"model": PAINT, "prompt": "a boat", "n": 2, "size": "auto"}
    body |= own if place == "top" else {"triptych": own}
    await painted(body, service)
    assert service.jobs == [
        PaintJob("a boat", n=2, negative_prompt="fog", steps=3, guidance_scale=2.5, seed=9, sampler="ddim")
    ]


async def test_what_variations_share_is_a_prompt_and_a_part_of_the_steps() -> None:
    service = FakeService()
    await painted({"model": PAINT, "prompt": "a boat", "triptych": {"trunk": {"prompt": "a lake", "part": 0.5}}}, service)
    assert service.jobs == [PaintJob("a boat", trunk=Trunk("a lake", 0.5))]


async def test_a_field_in_both_places_is_refused() -> None:
    assert (await refused(paint_body(triptych={"seed": 5})))["param"] == "triptych.seed"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
async def test_every_output_format_is_what_it_says(format: str) -> None:
    body = await painted(paint_body(output_format=format))
    assert opened(body["data"][0]["b64_json"]).format == format.upper()


async def test_more_compression_quality_makes_a_larger_file() -> None:
    sizes = [
        len((await painted(paint_body(output_format="jpeg", output_compression=quality)))["data"][0]["b64_json"])
        for quality in (0, 100)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t\u3000"}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"size": "64"}, "size"),
        ({"size": "0x64"}, "size"),
        ({"size": "64x64x64"}, "size"),
        ({"size": "999999x1"}, "size"),
        ({"response_format": "file"}, "response_format"),
        ({"response_format": "url", "stream": True}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"partial_images": 2}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"triptych": {"progress": True}}, "triptych.progress"),
        ({"background": "transparent"}, "background"),
        ({"quality": "best"}, "quality"),
        ({"style": "baroque"}, "style"),
        ({"mask": {"image_url": "x"}}, "mask"),
        ({"strength": 0.5}, "strength"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"scheduler": 5}, "scheduler"),
        ({"trunk": {"prompt": "a lake", "part": 0.5}}, "trunk"),
        ({"triptych": {"trunk": {"prompt": " ", "part": 0.5}}}, "triptych.trunk.prompt"),
        ({"triptych": {"trunk": {"prompt": "a" * 200_001, "part": 0.5}}}, "triptych.trunk.prompt"),
        ({"triptych": {"trunk": {"prompt": "a lake", "part": 1.0}}}, "triptych.trunk.part"),
        ({"triptych": {"trunk": {"prompt": "a lake", "part": 0}}}, "triptych.trunk.part"),
        ({"triptych": {"trunk": {"prompt": "a lake"}}}, "triptych.trunk.part"),
        ({"model": CHAT}, "model"),
    ],
)
async def test_a_wrong_value_is_told_with_its_field(fields: JsonObject, param: str) -> None:
    error = await refused(paint_body(**fields))
    assert error["param"] == param
    assert param in error["message"]


async def test_harmless_fields_are_accepted_and_those_without_effect_are_told() -> None:
    body = await painted(paint_body(user="u", quality="auto", moderation="low", background="auto", style=None, size=None))
    assert "notes" not in body["triptych"]
    for quality in ("low", "medium", "high", "xhigh", "max", "standard", "hd"):
        body = await painted(paint_body(quality=quality, style="vivid", model=None))
        assert [note["field"] for note in body["triptych"]["notes"]] == ["quality", "style"]


async def test_an_address_leads_to_the_image_without_being_asked_for_a_key() -> None:
    async with client_for(FakeService()) as client:
        body = (await client.post(PATH, json=paint_body(response_format="url", output_format="webp"))).json()
        (entry,) = body["data"]
        assert "b64_json" not in entry
        image = await client.get(entry["url"])
        missing = await client.get("/v1/images/files/guess")
    assert image.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(image.content)).size == (32, 32)
    assert missing.status_code == 404
    assert error_of(missing)["code"] == "unknown_url"


async def test_a_stream_shows_previews_then_the_image_with_the_receipt() -> None:
    events = await events_of(paint_body(partial_images=2))
    assert [event["type"] for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event["partial_image_index"] for event in events[:2]] == [0, 1]
    expected = gradient(PaintJob("a boat"), 5, 1.0)
    np.testing.assert_array_equal(np.asarray(opened(events[-1]["b64_json"])), expected)
    assert events[-1]["usage"]["total_tokens"] == 0
    assert events[-1]["triptych"]["receipt"]["stages"]
    assert set(events[0]) == {
        "type",
        "b64_json",
        "background",
        "created_at",
        "output_format",
        "partial_image_index",
        "quality",
        "size",
        "triptych",
    }


async def test_a_stream_of_several_images_tells_them_apart_and_has_one_receipt() -> None:
    events = await events_of(paint_body(n=3))
    assert sorted(event["triptych"]["index"] for event in events) == [0, 1, 2]
    assert [("receipt" in event["triptych"]) for event in events] == [False, False, True]
    assert sorted(event["triptych"]["seed"] for event in events) == [5, 6, 7]


async def test_progress_is_sent_only_where_it_was_asked_for() -> None:
    asked = await events_of(paint_body(num_inference_steps=3, triptych={"progress": True}))
    assert [(event["step"], event["total"]) for event in asked if event["type"] == "triptych.progress"] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert {event["type"] for event in await events_of(paint_body())} == {"image_generation.completed"}


async def test_a_late_error_is_the_streams_last_event() -> None:
    service = FakeService(trouble=Trouble(StageFailed("the denoiser broke"), after=2))
    async with client_for(service) as client:
        response = await client.post(PATH, json=paint_body(stream=True, triptych={"progress": True}))
    assert sse_events(response.text)[-1]["error"]["code"] == "stage_failed"


async def test_several_images_are_in_order_with_their_own_seeds() -> None:
    body = await painted(paint_body(n=2))
    assert [entry["triptych"] for entry in body["data"]] == [{"index": 0, "seed": 5}, {"index": 1, "seed": 6}]


async def test_a_prompt_over_the_configured_length_is_refused() -> None:
    async with client_for(FakeService(), IngressSettings(LimitsConfig(prompt_chars=3))) as client:
        response = await client.post(PATH, json=paint_body())
    assert "limits.prompt_chars" in error_of(response)["message"]
