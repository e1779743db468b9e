"""POST /v1/images/edits: what reaches the painter, forms that are none, and files that are no images."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import GivenImage, ImagePart, PaintJob
from pipelines.settings.schema.config import LimitsConfig
from stages.contract.errors import StageFailed
from tests.pipelines.ingress.fakes import CHAT, PAINT, PAINT_PARTS, FakeService, Trouble, gradient
from tests.pipelines.ingress.surface import JsonObject, client_for, data_url, error_of, png, sse_events

PATH = "/v1/images/edits"
FIELDS = {"model": PAINT, "prompt": "a boat", "seed": "5"}

Files = list[tuple[str, Any]]


def one_file(data: bytes | None = None) -> Files:
    return [("image", ("boat.png", png(24, 16) if data is None else data, "image/png"))]


async def edited(service: FakeService | None = None, files: Files | None = None, **fields: str) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, data=FIELDS | fields, files=files or one_file())
    assert response.status_code == 200, response.text
    return dict(response.json())


async def refused(fields: dict[str, Any], files: Files | None = None, *, status: int = 400, **more: Any) -> JsonObject:
    service = FakeService(edits=more.pop("edits", True))
    async with client_for(service, IngressSettings(LimitsConfig(**more))) as client:
        response = await client.post(PATH, data=fields, files=one_file() if files is None else files)
    assert response.status_code == status, response.text
    assert service.jobs == []
    return error_of(response)


async def posted(body: bytes, content_type: str = "multipart/form-data; boundary=x") -> JsonObject:
    service = FakeService()
    async with client_for(service) as client:
        response = await client.post(PATH, content=body, headers={b"content-type": content_type.encode("latin-1")})
    assert response.status_code == 400, response.text
    assert service.jobs == []
    return error_of(response)


async def test_an_edited_image_comes_back_at_its_own_size_with_its_seed_and_a_receipt() -> None:
    service = FakeService()
    body = await edited(service, strength="0.5")
    (entry,) = body["data"]
    (job,) = service.jobs
    assert job == PaintJob("a boat", seed=5, init=GivenImage(ImagePart(png(24, 16), 24, 16, "image"), 0.5))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))))
    np.testing.assert_array_equal(pixels, gradient(job, 5, 1.0))
    assert (body["size"], body["output_format"], entry["triptych"]) == ("24x16", "png", {"index": 0, "seed": 5})
    assert [stage["stage"].rpartition(".")[2] for stage in body["triptych"]["stages"]] == list(PAINT_PARTS)


@pytest.mark.parametrize("place", ["{}", "triptych[{}]"])
async def test_every_own_field_is_read_out_of_the_forms_text_at_the_top_level_and_under_triptych(place: str) -> None:
    service = FakeService()
    own = {
        "negative_prompt": "5",
        "num_inference_steps": "3",
        "guidance_scale": "2.5",
        "seed": "9",
        "scheduler": "ddim",
        "strength": "1",
    }
    data = {"model": PAINT, "prompt": "true", "n": "2", "size": "64x48", "triptych[priority]": "-2"}
    async with client_for(service) as client:
        form = data | {place.format(name): value for name, value in own.items()}
        response = await client.post(PATH, data=form, files=one_file())
    assert response.status_code == 200, response.text
    init = GivenImage(ImagePart(png(24, 16), 24, 16, "image"), 1.0)
    assert service.jobs == [
        PaintJob(
            "true",
            n=2,
            width=64,
            height=48,
            negative_prompt="5",
            steps=3,
            guidance_scale=2.5,
            seed=9,
            sampler="ddim",
            init=init,
        )
    ]
    assert service.contexts[0].priority == -2


async def test_a_stream_has_the_names_of_edits_and_shows_progress_where_asked() -> None:
    form = FIELDS | {"stream": "true", "partial_images": "1", "triptych[progress]": "true", "num_inference_steps": "2"}
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, data=form, files=one_file())
    events = sse_events(response.text)
    assert [event["type"] for event in events] == [
        "triptych.progress",
        "image_edit.partial_image",
        "triptych.progress",
        "image_edit.completed",
    ]
    assert events[-1]["triptych"]["receipt"]["stages"]


async def test_a_late_error_is_the_streams_last_event() -> None:
    service = FakeService(trouble=Trouble(StageFailed("the denoiser broke"), after=2))
    async with client_for(service) as client:
        form = FIELDS | {"stream": "true", "triptych[progress]": "true"}
        response = await client.post(PATH, data=form, files=one_file())
    assert sse_events(response.text)[-1]["error"]["code"] == "stage_failed"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("prompt", "", "prompt"),
        ("prompt", " \n", "prompt"),
        ("n", "11", "limits.max_images"),
        ("n", "two", 'must be an integer (given: "two")'),
        ("n", "1.5", "must be an integer"),
        ("strength", "0", "must be greater than 0"),
        ("strength", "1.5", 'must be less than or equal to 1 (given: "1.5")'),
        ("strength", "nan", "finite"),
        ("strength", "much", 'must be a number (given: "much")'),
        ("seed", "-1", "greater than or equal to 0"),
        ("seed", "9" * 5000, "must be an integer"),
        ("stream", "maybe", "must be true or false"),
        ("size", "64", "size"),
        ("partial_images", "2", "stream: true"),
        ("output_format", "gif", "must be 'png', 'jpeg' or 'webp'"),
        ("output_compression", "50", "jpeg or webp"),
        ("background", "transparent", "images are opaque"),
        ("quality", "best", "must be 'auto', 'low'"),
        ("input_fidelity", "medium", "must be 'low' or 'high'"),
        ("mask", "x", "mask: not an image that can be read"),
        ("markup", "x", "markup is not supported: say in the prompt what is to change, and in mask where"),
        ("frame_count", "2", "frame_count is not supported: images have one frame"),
        ("image_url", "x", "image_url is not supported"),
        ("triptych[x][y]", "x", "triptych[x][y] is not supported"),
        ("triptych", "{}", "triptych: must be an object"),
        ("triptych[seed]", "5", "triptych.seed mean the same"),
        ("triptych[mask]", "5", "triptych.mask is not supported"),
        ("model", CHAT, PAINT),
    ],
)
async def test_a_wrong_value_is_told_with_its_field(field: str, value: str, told: str) -> None:
    error = await refused(FIELDS | {field: value})
    assert error["param"] in (field, field.replace("[", ".").replace("]", ""))
    assert told in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize("field", ["prompt", "image"])
async def test_what_is_needed_is_said_to_be(field: str) -> None:
    fields: Files = [(name, (None, value)) for name, value in FIELDS.items()]
    error = await refused({}, [part for part in fields + one_file() if part[0] != field])
    assert (error["param"], error["message"].partition(";")[0]) == (field, f"{field} is required")


async def test_a_model_without_a_vae_encoder_says_so() -> None:
    error = await refused(FIELDS, edits=False)
    assert error["message"] == "this model edits no images: it has no vae_encoder"


@pytest.mark.parametrize("name", ["markup", "photo", "image[x]"])
async def test_a_file_that_has_no_place_is_refused_by_name(name: str) -> None:
    error = await refused(FIELDS, [*one_file(), (name, ("m.png", png(), "image/png"))])
    assert (error["param"], error["message"].partition(":")[0]) == (name, f"{name} is not supported")


async def test_a_file_where_text_is_meant_is_refused() -> None:
    error = await refused({"model": PAINT}, [*one_file(), ("prompt", ("p.txt", b"a boat", "text/plain"))])
    assert error["message"] == "prompt must be text, not a file"


@pytest.mark.parametrize("names", [("image", "image"), ("image[]", "image[]"), ("image", "image[]")])
async def test_several_images_are_refused(names: tuple[str, str]) -> None:
    error = await refused(FIELDS, [(name, ("a.png", png(), "image/png")) for name in names])
    assert (error["param"], error["message"]) == ("image", "image: 2 images are given; every model here edits 1 at a time")


async def test_two_masks_and_more_images_than_anybody_takes_are_refused_as_files() -> None:
    masks = await refused(FIELDS, one_file() + [("mask", ("m.png", png(), "image/png"))] * 2)
    assert (masks["param"], masks["message"]) == ("mask", "mask: 2 files are given; at most 1")
    many = await refused(FIELDS, one_file() * 17)
    assert many["message"] == "image: 17 files are given; at most 16"


async def test_a_field_given_twice_is_refused() -> None:
    error = await refused(FIELDS | {"prompt": ["a boat", "a hut"]})
    assert error["message"] == "prompt is given twice"


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        (b"", 400, "not an image that can be read"),
        (b"hello", 400, "not an image that can be read"),
        (png()[:20], 400, "not an image that can be read"),
        (b"\0" * 3000, 413, "at most 2000 (limits.image_bytes)"),
        (png(101, 100), 413, "at most 10000 (limits.image_pixels)"),
    ],
)
async def test_a_file_that_is_no_image_within_the_limits_is_refused(data: bytes, status: int, told: str) -> None:
    error = await refused(FIELDS, one_file(data), status=status, image_bytes=2000, image_pixels=10_000)
    assert error["param"] == "image"
    assert told in error["message"]


async def test_the_forms_own_limits_are_told_with_their_settings() -> None:
    assert "limits.body_bytes" in (await refused(FIELDS, one_file(b"x" * 1024), status=413, body_bytes=1024))["message"]
    assert "limits.prompt_chars" in (await refused(FIELDS, prompt_chars=3))["message"]
    assert "limits.images_per_request" in (await refused(FIELDS, images_per_request=0))["message"]


async def test_a_large_image_is_read_whatever_its_bytes_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    service = FakeService()
    await edited(service, one_file(buffer.getvalue()))
    (job,) = service.jobs
    assert isinstance(job, PaintJob)
    assert job.init is not None
    assert job.init.image.data == buffer.getvalue()


PROMPT = b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'

ODD_FORMS: dict[str, bytes] = {
    "nothing": b"",
    "not a form": b"hello",
    "no parts": b"--x--\r\n",
    "another boundary": b"--y\r\n\r\n--y--",
    "cut off in its header": b'--x\r\ncontent-disposition: form-data; name="pro',
    "cut off in its data": PROMPT + b"a boat",
    "a part without a name": b"--x\r\n\r\na boat\r\n--x--\r\n",
    "a part with an empty name": b'--x\r\ncontent-disposition: form-data; name=""\r\n\r\na\r\n--x--\r\n',
    "a long name": b'--x\r\ncontent-disposition: form-data; name="' + b"n" * 1000 + b'"\r\n\r\na\r\n--x--\r\n',
    "a header without end": b"--x\r\ncontent-disposition: " + b"a" * 100_000,
    "many headers": b"--x\r\n" + b"a: b\r\n" * 1000 + b"\r\na\r\n--x--\r\n",
    "many parts": b"".join(PROMPT.replace(b"prompt", b"p%d" % at) + b"a\r\n" for at in range(1000)) + b"--x--\r\n",
    "text that is not UTF-8": PROMPT + b"\xff\xfe\r\n--x--\r\n",
    "a header that is none": b"--x\r\n\0: \0\r\n\r\na\r\n--x--\r\n",
}


@pytest.mark.parametrize("body", ODD_FORMS.values(), ids=ODD_FORMS)
async def test_a_form_that_is_none_is_a_400_and_no_line_in_the_servers_log(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert len((await posted(body))["message"]) < 300
    assert caplog.text == ""


async def test_text_that_is_not_utf8_and_a_last_part_that_is_cut_off_are_told_as_such() -> None:
    assert (await posted(ODD_FORMS["text that is not UTF-8"]))["message"] == "prompt is not valid UTF-8"
    assert "ends before its last boundary" in (await posted(ODD_FORMS["cut off in its data"]))["message"]


@pytest.mark.parametrize(
    "declared", ["charset=utf-16; boundary=x", 'boundary=x; charset=utf-8; y="', 'boundary=x; charset=a\0b; y="']
)
async def test_names_and_text_of_a_form_are_utf8_whatever_charset_it_declares(declared: str) -> None:
    service = FakeService()
    body = PROMPT + "ein Boot, größer".encode() + b"\r\n"
    body += b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n' + PAINT.encode() + b"\r\n"
    body += b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\n' + png() + b"\r\n--x--\r\n"
    async with client_for(service) as client:
        headers = {b"content-type": f"multipart/form-data; {declared}".encode()}
        response = await client.post(PATH, content=body, headers=headers)
    assert response.status_code == 200, response.text
    (job,) = service.jobs
    assert isinstance(job, PaintJob)
    assert job.prompt == "ein Boot, größer"


@pytest.mark.parametrize(
    "boundary", ["", ";boundary=", f";boundary={'x' * 1000}", ';boundary="a\\"b"', ";boundary=\xff", ';y="; boundary=x']
)
async def test_a_form_without_a_boundary_is_a_400(boundary: str) -> None:
    error = await posted(b"--x--\r\n", f"multipart/form-data{boundary}")
    assert error["param"] == "content-type"


async def test_an_edit_as_json_is_the_same_as_one_in_a_form() -> None:
    service = FakeService()
    body = {"prompt": "a boat", "seed": 5, "images": [{"image_url": data_url(png(24, 16))}], "strength": 0.5}
    async with client_for(service) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    assert service.jobs == [
        PaintJob("a boat", seed=5, init=GivenImage(ImagePart(png(24, 16), 24, 16, "images[0].image_url"), 0.5))
    ]


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_mask_goes_with_its_image(as_json: bool) -> None:
    service = FakeService()
    image, mask = png(24, 16), png(24, 16, "blue")
    async with client_for(service) as client:
        if as_json:
            body = {"images": [{"image_url": data_url(image)}], "mask": {"image_url": data_url(mask)}}
            response = await client.post(PATH, json={"prompt": "a boat", **body})
        else:
            files = [("image[]", ("a.png", image, "image/png")), ("mask", ("m.png", mask, "image/png"))]
            response = await client.post(PATH, data={"prompt": "a boat"}, files=files)
    assert response.status_code == 200, response.text
    (job,) = service.jobs
    assert isinstance(job, PaintJob)
    assert job.init is not None
    assert job.init.mask is not None
    assert (job.init.image.data, job.init.mask.data) == (image, mask)


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({}, "images", "images is required"),
        ({"images": []}, "images", "at least 1"),
        ({"images": [{"image_url": data_url(png())}] * 2}, "images", "every model here edits 1 at a time"),
        ({"images": [{"image_url": data_url(png())}] * 17}, "images", "limits.images_per_request"),
        ({"images": [{"file_id": "file-1"}]}, "images[0]", "file_id is not supported: send the image itself"),
        ({"images": [{"image_url": "cat.png"}]}, "images[0].image_url", "neither a data: URL"),
        ({"images": [{"image_url": data_url(b"no image")}]}, "images[0].image_url", "not an image that can be read"),
        ({"images": [{"image_url": data_url(png())}], "mask": {"image_url": "x"}}, "mask.image_url", "neither a data: URL"),
        ({"images": [{"image_url": data_url(png())}], "mask": data_url(png())}, "mask", "must be an object"),
        ({"images": [{"image_url": data_url(png())}], "image": "x"}, "image", "image is not supported"),
    ],
)
async def test_what_is_wrong_in_json_is_told_with_its_place(fields: JsonObject, param: str, told: str) -> None:
    service = FakeService()
    async with client_for(service) as client:
        response = await client.post(PATH, json={"prompt": "a boat", **fields})
    assert response.status_code == 400, response.text
    assert service.jobs == []
    error = error_of(response)
    assert error["param"] == param
    assert told in error["message"]


async def test_what_openai_documents_and_has_no_effect_is_accepted_and_told() -> None:
    body = await edited(
        quality="high", input_fidelity="low", moderation="low", background="opaque", complexity="low", user="u"
    )
    assert {note["field"] for note in body["triptych"]["notes"]} == {"quality", "input_fidelity", "complexity"}
    assert "notes" not in (await edited(quality="auto"))["triptych"]


async def test_where_one_model_would_do_it_need_not_be_named() -> None:
    service = FakeService()
    async with client_for(service) as client:
        assert (await client.post(PATH, data={"prompt": "a boat"}, files=one_file())).status_code == 200
    error = await refused({"prompt": "a boat"}, edits=False)
    assert (error["param"], error["message"]) == ("model", "model is required; models that edit: none")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/mixed; boundary=x", ""])
async def test_a_body_that_is_not_declared_as_a_form_is_415(kind: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, content=b"{}", headers={"content-type": kind})
    assert response.status_code == 415
    assert "multipart/form-data" in error_of(response)["message"]


async def test_a_variation_is_an_edit_that_no_sentence_steers() -> None:
    service = FakeService()
    async with client_for(service) as client:
        response = await client.post("/v1/images/variations", data={"seed": "5", "n": "2"}, files=one_file())
        steered = await client.post("/v1/images/variations", data={"prompt": "a boat"}, files=one_file())
        masked = await client.post("/v1/images/variations", files=[*one_file(), ("mask", ("mask.png", png(), "image/png"))])
        missing = await client.post(
            "/v1/images/variations", data={"n": "1"}, files=[("picture", ("a.png", png(), "image/png"))]
        )
    assert response.status_code == 200, response.text
    assert len(response.json()["data"]) == 2
    assert service.jobs == [PaintJob("", n=2, seed=5, init=GivenImage(ImagePart(png(24, 16), 24, 16, "image")))]
    assert error_of(steered)["param"] == "prompt"
    assert error_of(masked)["param"] == "mask"
    assert missing.status_code == 400
