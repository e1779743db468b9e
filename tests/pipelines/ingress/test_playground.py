"""The page in a real browser: a person shows an image, asks, watches, stops. Anything the page complains about fails the
test."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import ChatJob, GivenImage, ImagePart, PaintJob
from stages.contract.errors import QueueFull
from tests.pipelines.ingress.chromium import BROWSER, Page, browser
from tests.pipelines.ingress.fakes import CHAT, FakeService, Gate, Trouble
from tests.pipelines.ingress.surface import png, server_for

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")]

READY = "document.querySelector('#status').classList.contains('ready')"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def page(service: FakeService, tmp_path: Path) -> AsyncIterator[Page]:
    async with server_for(service) as address, browser(tmp_path / "profile") as page:
        await page.open(address)
        await page.until(READY)
        yield page
        assert page.problems == []


async def text(page: Page, selector: str) -> str:
    return str(await page.run(f"document.querySelector({selector!r}).innerText"))


async def test_an_image_is_shown_and_asked_about_and_the_receipt_drawn(
    page: Page, service: FakeService, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(12, 10))
    await page.choose_file("#image", image)
    await page.until("!document.querySelector('#thumb').hidden")
    await page.type("#question", "what is it")
    await page.press("Enter")
    await page.until("document.querySelector('#see-receipt table')")
    assert await text(page, ".turn.assistant") == "You said: [12x10] what is it"
    assert "4 tokens in, 0 of them remembered · 6 out" in await text(page, "#see-note")
    assert await page.run("document.querySelectorAll('#see-receipt tbody tr').length") == 2
    assert "vision encoder" in await text(page, "#see-receipt")
    (job,) = service.jobs
    assert isinstance(job, ChatJob)
    assert isinstance(job.messages[0].parts[0], ImagePart)


async def test_stages_are_drawn_in_the_colours_of_their_pools_and_say_why_they_ran_there(page: Page) -> None:
    runner_up = {"runner_up": "r9", "runner_up_pool": "painter-a100", "runner_up_s": 2.5}
    painted = {**_stage("m.denoiser", "painter-l4", 2.5), **runner_up, "remembered": ["10 steps"]}
    stages = [_stage("m.text_encoder", "encoders", 0.5), painted, _stage("m.vae_decoder", "encoders", 3.0)]
    receipt = {"request_id": "abcdefgh", "total_s": 3.0, "device_s": 1.0, "stages": stages}
    await page.run(
        "import('/playground/receipt.js').then(({ drawReceipt }) =>"
        f" drawReceipt(document.querySelector('#paint-receipt'), {json.dumps(receipt)}))"
    )
    colours = await page.run(
        "[...document.querySelectorAll('#paint-receipt .track .run')].map(run => getComputedStyle(run).backgroundColor)"
    )
    assert colours[0] == colours[2] != colours[1]
    legend = await page.run(
        "[...document.querySelectorAll('#paint-receipt .legend .run')].map(run =>"
        " [getComputedStyle(run).backgroundColor, run.parentElement.innerText])"
    )
    assert legend == [[colours[0], "ran in encoders, on NVIDIA L4"], [colours[1], "ran in painter-l4, on NVIDIA L4"]]
    await page.click("#paint-receipt summary")
    assert "next best: painter-a100, in 2.50 s; remembered there: 10 steps" in await text(page, "#paint-receipt .why")


def _stage(name: str, pool: str, ended_s: float) -> dict[str, Any]:
    ran = {"queue_s": 0.1, "run_s": 0.4, "device_s": 0.2, "ended_s": ended_s, "batch_size": 2.0, "steps": 1, "cache": "miss"}
    return {"stage": name, "replica": "r1", "device": "NVIDIA L4", "dtype": "float16", "pool": pool, "expected_s": 2.0, **ran}


async def test_the_conversation_goes_on_with_the_image_in_it(page: Page, service: FakeService) -> None:
    for question in ("first", "second"):
        await page.type("#question", question)
        await page.press("Enter")
        await page.until(
            f"document.querySelectorAll('#see-receipt table').length && {question!r} && !document.querySelector('.writing')"
        )
    job = service.jobs[-1]
    assert isinstance(job, ChatJob)
    assert [message.role for message in job.messages] == ["user", "assistant", "user"]


async def test_stopping_an_answer_stops_the_work_and_keeps_what_was_said(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=4)
    await page.type("#question", "one two three")
    await page.click("#ask")
    await page.until("document.querySelector('.turn.assistant').textContent.includes('one')")
    await page.press("Escape")
    await service.gate.cancelled.wait()
    await page.until("document.querySelector('#see-note').textContent === 'Stopped.'")
    assert await text(page, ".turn.assistant") == "You said: one"
    assert await page.run("document.querySelector('#ask').disabled") is False


async def test_a_sentence_is_painted_with_previews_and_steps_and_can_be_asked_about(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=4)
    await page.type("#sentence", "a boat")
    await page.type("#steps", "4")
    await page.press("Enter")
    await page.until("document.querySelector('#step').textContent === '2 of 4'")
    assert await page.run("document.querySelector('#painting').className") == "preview"
    service.gate.open.set()
    await page.until("document.querySelector('#paint-receipt table')")
    assert await text(page, "#caption") == "32 × 32 · seed 7"
    assert await page.run("document.querySelector('#painting').naturalWidth") == 32
    job = service.jobs[-1]
    assert isinstance(job, PaintJob)
    assert (job.prompt, job.steps, job.partial_images) == ("a boat", 4, 3)
    await page.click("#show")
    await page.until("!document.querySelector('#thumb').hidden")


async def test_an_image_is_painted_over(page: Page, service: FakeService, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(12, 10))
    await page.choose_file("#start", image)
    assert await page.run("document.querySelector('#strength').placeholder") == "0.8"
    await page.click("#paint-form summary")
    await page.type("#strength", "0.4")
    await page.type("#sentence", "a boat")
    await page.press("Enter")
    await page.until("document.querySelector('#paint-receipt table')")
    assert await text(page, "#caption") == "12 × 10 · seed 7"
    job = service.jobs[-1]
    assert isinstance(job, PaintJob)
    assert job.init == GivenImage(ImagePart(image.read_bytes(), 12, 10, "image"), 0.4)


async def test_a_painter_that_edits_nothing_takes_no_image(tmp_path: Path) -> None:
    async with server_for(FakeService(edits=False)) as address, browser(tmp_path / "profile") as page:
        await page.open(address)
        await page.until(READY)
        assert await page.run("[...document.querySelectorAll('.edit')].map(field => field.hidden)") == [True, True]


async def test_stopping_a_painting_stops_the_work(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=3)
    await page.type("#sentence", "a boat")
    await page.click("#paint")
    await page.until("!document.querySelector('#paint-stop').hidden && document.querySelector('#step').textContent")
    await page.click("#paint-stop")
    await service.gate.cancelled.wait()
    await page.until("document.querySelector('#paint-note').textContent === 'Stopped.'")


async def test_an_error_is_told_and_the_question_is_given_back(page: Page, service: FakeService) -> None:
    service.trouble = Trouble(QueueFull("256 requests wait already"))
    await page.type("#question", "hello")
    await page.click("#ask")
    await page.until("!document.querySelector('#see-error').hidden")
    assert await text(page, "#see-error") == "256 requests wait already"
    assert await page.run("document.querySelector('#question').value") == "hello"
    page.problems.clear()  # the browser itself notes every 429


async def test_a_key_is_asked_for_where_one_is_needed(tmp_path: Path) -> None:
    settings = IngressSettings(keys={hashlib.sha256(b"open sesame").hexdigest(): "ada"})
    async with server_for(FakeService(), settings) as address, browser(tmp_path / "profile") as page:
        await page.open(address)
        await page.until("!document.querySelector('#key-form').hidden")
        await page.type("#key", "open sesame")
        await page.press("Enter")
        await page.until(READY)
        assert CHAT in await text(page, "#status")
        assert await page.run("document.querySelector('#key-form').hidden") is True


async def test_every_control_has_a_name_for_those_who_cannot_see_it(page: Page) -> None:
    unnamed = await page.run(
        "[...document.querySelectorAll('input, textarea, select, button')].filter(control =>"
        " !(control.labels && control.labels.length) && !control.textContent.trim() && !control.getAttribute('aria-label'))"
        ".map(control => control.id)"
    )
    assert unnamed == []


async def test_the_page_fits_a_narrow_screen(service: FakeService, tmp_path: Path) -> None:
    async with server_for(service) as address, browser(tmp_path / "profile") as page:
        await page.open(address, width=360, height=800)
        await page.until(READY)
        await page.type("#sentence", "a boat")
        await page.press("Enter")
        await page.until("document.querySelector('#paint-receipt table')")
        assert await page.run("document.documentElement.scrollWidth") == 360
        assert page.problems == []
