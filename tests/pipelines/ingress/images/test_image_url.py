"""From a request's `image_url` to an image within the limits."""

import base64
import random
import struct
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from PIL import Image

from pipelines.ingress.images.fetch import FetchPolicy
from pipelines.ingress.images.image_url import GivenFile, ImageSource, WantedImage
from pipelines.jobs import ImagePart
from pipelines.settings.schema.config import LimitsConfig
from pipelines.threads import OFF_LOOP_IMAGE_BYTES, Threads
from stages.contract.errors import InvalidRequest, TooLarge
from tests.pipelines.ingress.image_server import ImageServer, body, redirect, running
from tests.stages.image_files import FORMATS, png, quarters, save

PARAM = "messages[0].content[1].image_url.url"
LIMITS = LimitsConfig(image_bytes=100_000, image_pixels=10_000)
CAT = save(quarters(), "PNG")
WEBP_OF_25_MEGAPIXELS = (
    b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<IBI", 14, 0x2F, 4999 | 4999 << 14) + bytes(9)
)


def source(limits: LimitsConfig = LIMITS, fetch: FetchPolicy = FetchPolicy()) -> ImageSource:
    return ImageSource(limits, fetch, Threads.new())


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


async def loaded(images: ImageSource, url: str) -> ImagePart:
    (part,) = await images.load([WantedImage(url, PARAM)])
    return part


async def refusal(url: str, limits: LimitsConfig = LIMITS, fetch: FetchPolicy = FetchPolicy()) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await loaded(source(limits, fetch), url)
    assert caught.value.param == PARAM
    assert PARAM in caught.value.message
    assert len(caught.value.message) < 500
    return caught.value


# ---- data URLs ----


@pytest.mark.parametrize("format", FORMATS)
async def test_a_data_url_becomes_an_image_with_its_size(format: str) -> None:
    data = save(quarters(), format)
    assert await loaded(source(), data_url(data)) == ImagePart(data, 40, 24, PARAM)


@pytest.mark.parametrize(
    "kind",
    [
        "image/jpeg",
        "image/x-anything",
        "IMAGE/PNG",
        "image/svg+xml",
        "image/png;name=cat.png",
        "image/jpg",
        "application/octet-stream",
        "",
    ],
)
async def test_the_media_type_is_only_a_hint(kind: str) -> None:
    assert (await loaded(source(), data_url(CAT, kind))).data == CAT


async def test_the_scheme_may_be_written_in_capitals() -> None:
    assert (await loaded(source(), "DATA" + data_url(CAT)[4:])).data == CAT


@pytest.mark.parametrize(
    "url",
    [
        data_url(CAT, "text/html"),
        "data:image/png," + base64.b64encode(CAT).decode(),
        "data:image/png;base64",
        "data:image/png;base64;base64," + base64.b64encode(CAT).decode(),
        "data:image/png;x=" + "y" * 300 + ";base64," + base64.b64encode(CAT).decode(),
        "data:",
        "data:,",
    ],
)
async def test_a_data_url_that_is_no_base64_image_is_refused(url: str) -> None:
    assert "data:image/<type>;base64,<bytes>" in (await refusal(url)).message


async def test_base64_is_read_as_clients_send_it_and_what_nobody_could_read_is_told() -> None:
    text = base64.b64encode(CAT).decode()
    for sent in (
        text.rstrip("="),
        text[:8] + "\r\n" + text[8:],
        text.replace("+", "-").replace("/", "_"),
        quote(text, safe=""),
    ):
        assert (await loaded(source(), f"data:image/png;base64,{sent}")).data == CAT
    for damaged in (text[:8] + "é" + text[8:], text[:8] + "!" + text[8:], text[:8] + "==" + text[8:]):
        assert "base64" in (await refusal(f"data:image/png;base64,{damaged}")).message


async def test_a_files_text_that_is_a_data_url_is_read_as_one() -> None:
    (part,) = await source().load([GivenFile(data_url(CAT).encode(), "image")])
    assert part == ImagePart(CAT, 40, 24, "image")


async def test_an_empty_image_is_refused() -> None:
    assert not isinstance(await refusal("data:image/png;base64,"), TooLarge)


async def test_bytes_that_are_no_image_are_refused() -> None:
    assert "PNG, JPEG, WebP, AVIF, GIF or BMP" in (await refusal(data_url(b"<svg/>", "image/svg+xml"))).message


@pytest.mark.parametrize("max_bytes", [len(CAT) - 1, 64])
async def test_an_image_with_more_bytes_than_allowed_is_refused(max_bytes: int) -> None:
    error = await refusal(data_url(CAT), LimitsConfig(image_bytes=max_bytes, image_pixels=10_000))
    assert isinstance(error, TooLarge)
    assert all(word in error.message for word in (str(max_bytes), "limits.image_bytes"))


async def test_an_image_at_the_limits_is_accepted() -> None:
    limits = LimitsConfig(image_bytes=len(CAT), image_pixels=40 * 24)
    assert (await loaded(source(limits), data_url(CAT))).width == 40


async def test_a_data_url_far_over_the_limit_is_refused_before_it_is_decoded() -> None:
    assert isinstance(await refusal("data:image/png;base64," + "!" * 1_000_000), TooLarge)


async def test_an_image_with_more_pixels_than_allowed_is_refused() -> None:
    error = await refusal(data_url(png(50_000, 50_000, b"")))
    assert isinstance(error, TooLarge)
    assert "limits.image_pixels" in error.message


# ---- several images ----


async def test_images_come_in_order_each_with_its_field_and_as_small_as_was_wanted() -> None:
    large = save(quarters(1000, 500), "PNG")
    wanted = [
        WantedImage(data_url(large), "a", low_detail=True),
        WantedImage(data_url(CAT), "b"),
        WantedImage(data_url(large), "c"),
    ]
    parts = await source(LimitsConfig()).load(wanted)
    assert [(part.param, part.width, part.height) for part in parts] == [("a", 512, 256), ("b", 40, 24), ("c", 1000, 500)]
    assert await source().load([]) == []


@pytest.mark.parametrize("low_detail", [True, False])
async def test_more_pixels_in_all_than_allowed_are_refused_before_any_is_decoded(low_detail: bool) -> None:
    """Each of 34 bytes and of as many pixels as one image may have: nothing of them can be decoded."""
    wanted = [WantedImage(data_url(WEBP_OF_25_MEGAPIXELS), f"input[{index}]", low_detail) for index in range(5)]
    with pytest.raises(TooLarge, match=r"125000000 pixels in all; at most 100000000 \(limits\.request_pixels\)") as caught:
        await source(LimitsConfig()).load(wanted)
    assert caught.value.param == "input[4]"


async def test_pixels_at_the_limit_in_all_are_accepted() -> None:
    limits, two = LimitsConfig(image_pixels=40 * 24, request_pixels=2 * 40 * 24), [WantedImage(data_url(CAT), PARAM)] * 2
    assert len(await source(limits).load(two)) == 2
    with pytest.raises(TooLarge, match=r"limits\.request_pixels"):
        await source(limits).load([*two, *two])


# ---- other addresses ----


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://example.org/cat.png",
        "blob:https://example.org/1",
        "gs://bucket/cat.png",
        "cat.png",
        "/cat.png",
        "//example.org/cat.png",
        " data:image/png;base64,AAAA",
        " http://example.org/",
        base64.b64encode(CAT).decode(),
        "x" * 1_000_000,
    ],
)
async def test_anything_but_data_and_http_is_refused(url: str) -> None:
    assert "data:" in (await refusal(url, fetch=FetchPolicy(enabled=True))).message


async def test_http_addresses_are_refused_unless_enabled() -> None:
    for url in ("http://example.org/cat.png", "https://example.org/cat.png", "HTTPS://example.org/cat.png"):
        assert "fetch.enabled" in (await refusal(url)).message


# ---- http addresses ----


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with running() as started:
        started.answers["/cat"] = body(CAT)
        yield started


def policy(server: ImageServer) -> FetchPolicy:
    return FetchPolicy(enabled=True, timeout_s=30, allowed_hosts=(f"127.0.0.1:{server.port}",))


async def test_a_fetched_image_is_like_any_other(server: ImageServer) -> None:
    server.answers["/here"] = redirect("/cat")
    part = await loaded(source(fetch=policy(server)), server.url("/here"))
    assert part == ImagePart(CAT, 40, 24, PARAM)


async def test_the_servers_word_on_the_type_is_only_a_hint(server: ImageServer) -> None:
    server.answers["/octets"] = body(CAT, kind="application/octet-stream")
    assert (await loaded(source(fetch=policy(server)), server.url("/octets"))).width == 40
    server.answers["/page"] = body(b"<html>", kind="image/png")
    assert "PNG, JPEG" in (await refusal(server.url("/page"), fetch=policy(server))).message


async def test_a_fetched_image_must_be_within_the_same_limits(server: ImageServer) -> None:
    many_bytes = await refusal(server.url("/cat"), LimitsConfig(image_bytes=len(CAT) - 1, image_pixels=10_000), policy(server))
    many_pixels = await refusal(
        server.url("/cat"), LimitsConfig(image_bytes=len(CAT), image_pixels=40 * 24 - 1), policy(server)
    )
    assert "limits.image_bytes" in many_bytes.message
    assert "limits.image_pixels" in many_pixels.message


async def test_a_private_address_is_refused(server: ImageServer) -> None:
    assert "no public address" in (await refusal(server.url("/cat"), fetch=FetchPolicy(enabled=True))).message
    assert server.asked == []


async def test_work_on_more_than_a_small_image_happens_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    inspect = ImageSource._part

    def watched(self: ImageSource, data: bytes, param: str) -> ImagePart:
        threads.append(threading.current_thread())
        return inspect(self, data, param)

    monkeypatch.setattr(ImageSource, "_part", watched)
    large = save(Image.frombytes("RGB", (100, 100), random.Random(1).randbytes(30_000)), "PNG")
    for image in (CAT, large):
        await loaded(source(), data_url(image))
    assert len(CAT) < OFF_LOOP_IMAGE_BYTES < len(large)
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
