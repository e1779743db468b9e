"""Paintings in the page, in a real browser: with previews, over images, only where a hand marked them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.jobs import GivenImage, ImagePart, PaintJob
from tests.pipelines.ingress.chromium import Browser, Page
from tests.pipelines.ingress.fakes import FakeService, Gate
from tests.pipelines.ingress.playground.pages import IN_A_BROWSER, playground, text
from tests.pipelines.ingress.surface import png

pytestmark = IN_A_BROWSER


def last_painting(service: FakeService) -> PaintJob:
    job = service.jobs[-1]
    assert isinstance(job, PaintJob)
    return job


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
    job = last_painting(service)
    assert (job.prompt, job.steps, job.partial_images) == ("a boat", 4, 3)
    await page.click("#show")
    await page.until("!document.querySelector('#thumb').hidden")


async def test_an_image_is_painted_over(page: Page, service: FakeService, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(12, 10))
    await page.choose_file("#start", image)
    assert await page.run("document.querySelector('#strength').placeholder") == "0.8"
    await page.type("#strength", "0.4")
    await page.type("#sentence", "a boat")
    await page.press("Enter")
    await page.until("document.querySelector('#paint-receipt table')")
    assert await text(page, "#caption") == "12 × 10 · seed 7"
    job = last_painting(service)
    assert job.init == GivenImage(ImagePart(image.read_bytes(), 12, 10, "image"), 0.4)
    assert await page.run("document.querySelector('#before').hidden") is False
    assert await page.run("document.querySelector('#original').naturalWidth") == 12


async def test_a_painter_that_edits_nothing_takes_no_image(browser: Browser) -> None:
    async with playground(FakeService(edits=False), browser) as page:
        assert await page.run("[...document.querySelectorAll('.edit')].map(field => field.hidden)") == [True, True]


async def test_stopping_a_painting_stops_the_work(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=3)
    await page.type("#sentence", "a boat")
    await page.click("#paint")
    await page.until("!document.querySelector('#paint-stop').hidden && document.querySelector('#step').textContent")
    await page.click("#paint-stop")
    await service.gate.cancelled.wait()
    await page.until("document.querySelector('#paint-note').textContent === 'Stopped.'")


async def marked(service: FakeService) -> list[list[int]]:
    """Rows of the last mask: 1 where it is to be painted."""
    init = last_painting(service).init
    assert init is not None
    assert init.mask is not None
    alpha = np.asarray(Image.open(io.BytesIO(init.mask.data)).convert("RGBA"))[..., 3]
    return (alpha < 128).astype(int).tolist()


async def chosen(page: Page, folder: Path, width: int = 60, height: int = 40) -> None:
    image = folder / "image.png"
    image.write_bytes(png(width, height))
    await page.choose_file("#start", image)
    await page.until(f"document.querySelector('#mask').width === {width}")


async def painted(page: Page) -> None:
    await page.type("#sentence", "a boat")
    await page.press("Enter")
    await page.until("document.querySelector('#paint-receipt table') && !document.querySelector('#paint').disabled")


async def test_a_mask_is_marked_with_the_mouse_erased_and_cleared(page: Page, service: FakeService, tmp_path: Path) -> None:
    await chosen(page, tmp_path)
    await page.run("document.querySelector('#brush-size').value = 20")  # 12 pixels of 60
    await page.drag("#mask", [(0.25, 0.5), (0.75, 0.5)])
    await page.click("#erase")
    await page.drag("#mask", [(0.75, 0.5)])
    await painted(page)
    rows = await marked(service)
    assert (len(rows), len(rows[0])) == (40, 60)
    assert [rows[20][at] for at in (5, 15, 30, 45)] == [0, 1, 1, 0]
    assert [rows[at][30] for at in (12, 15, 25, 28)] == [0, 1, 1, 0]
    assert await page.run("document.querySelector('#mask-note').textContent") == "Only what is marked is painted over."
    await page.click("#mask-undo")
    await painted(page)
    assert (await marked(service))[20][45] == 1
    await page.click("#mask-clear")
    await painted(page)
    init = last_painting(service).init
    assert init is not None
    assert init.mask is None


async def test_a_mask_is_marked_with_a_finger_and_with_the_keys(page: Page, service: FakeService, tmp_path: Path) -> None:
    await chosen(page, tmp_path)
    await page.touch("#mask", [(0.1, 0.2), (0.4, 0.2)])
    await painted(page)
    touched = await marked(service)
    assert [touched[8][at] for at in (6, 20, 40)] == [1, 1, 0]
    await page.click("#mask-clear")
    await page.run("document.querySelector('#mask').focus()")
    for key in ("ArrowRight", "ArrowRight", "Space", "ArrowDown"):
        await page.press(key)
    await painted(page)
    keyed = np.asarray(await marked(service))
    middle = np.argwhere(keyed).mean(axis=0)
    # Two steps, of 2 % of 60 pixels each, to the right of where the finger was.
    assert np.allclose(middle, (7.5, 25.9), atol=0.6)
