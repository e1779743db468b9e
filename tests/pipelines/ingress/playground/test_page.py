"""The page itself, in a real browser: keys, names for screen readers, narrow screens and receipts."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipelines.ingress.request.settings import IngressSettings
from tests.pipelines.ingress.chromium import Browser, Page
from tests.pipelines.ingress.fakes import CHAT, FakeService
from tests.pipelines.ingress.playground.pages import IN_A_BROWSER, READY, choose, playground, text
from tests.pipelines.ingress.surface import png, server_for

pytestmark = IN_A_BROWSER


async def test_a_key_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    settings = IngressSettings(keys={hashlib.sha256(b"open sesame").hexdigest(): "ada"})
    async with server_for(FakeService(), settings) as address, browser.page() as page:
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


async def test_the_page_fits_a_narrow_screen(service: FakeService, browser: Browser, tmp_path: Path) -> None:
    async with playground(service, browser, width=360) as page:
        image = tmp_path / "image.png"
        image.write_bytes(png(400, 100))
        await page.choose_file("#start", image)
        for selector in ("#see-settings", "#paint-form details"):
            await page.run(f"document.querySelector({selector!r}).open = true")
        for select in ("#answer-form", "#tool-choice"):
            await choose(page, select, {"#answer-form": "json_schema", "#tool-choice": "auto"}[select])
        await page.click("#paint-job")
        await page.type("#sentence", "a boat")
        await page.press("Enter")
        await page.until("document.querySelector('#paint-receipt table')")
        assert await page.run("document.documentElement.scrollWidth") == 360


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
