"""Paintings as jobs in the page, in a real browser: submitted, followed, called off, and there again after the page was loaded anew."""

from pathlib import Path

from pipelines.jobs import PaintJob
from stages.contract.errors import InvalidRequest
from tests.pipelines.ingress.chromium import Page
from tests.pipelines.ingress.fakes import FakeService, Gate, Trouble
from tests.pipelines.ingress.playground.pages import IN_A_BROWSER, READY, count, fill, text
from tests.pipelines.ingress.surface import png

pytestmark = IN_A_BROWSER


async def submit(page: Page, sentence: str) -> None:
    before = await count(page, ".job")
    await fill(page, "#sentence", sentence)
    await page.click("#paint-job")
    await page.until(f"document.querySelectorAll('.job').length === {before + 1}")


def button(words: str) -> str:
    return f"[...document.querySelectorAll('.job button')].find(one => one.textContent === {words!r})"


async def test_a_job_tells_how_far_it_is_survives_a_reload_and_hangs_its_picture(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=4)
    await submit(page, "a boat")
    await page.until("document.querySelector('.job-state').textContent.startsWith('Painting · 50 %')")
    assert "left" in await text(page, ".job-state") or "any moment" in await text(page, ".job-state")
    await page.reload()
    await page.until(READY)
    await page.until("document.querySelector('.job-state')?.textContent.startsWith('Painting · 50 %')")
    assert await text(page, ".job-title") == "a boat"
    service.gate.open.set()
    await page.until("document.querySelector('.job img')?.naturalWidth")
    assert (await text(page, ".job-state")).startswith("Done")
    await page.run(f"{button('Show')}.click()")
    await page.until("document.querySelector('#painting').naturalWidth === 32")
    assert "32 × 32 · seed " in await text(page, "#caption")
    await page.run(f"{button('Delete')}.click()")
    await page.until("document.querySelector('#jobs').hidden")


async def test_jobs_are_called_off_and_fail_with_their_reason(page: Page, service: FakeService) -> None:
    service.gate = Gate(after=2)
    await submit(page, "a boat")
    await page.until("document.querySelector('.job-state').textContent.startsWith('Painting')")
    await page.run(f"{button('Cancel')}.click()")
    await service.gate.cancelled.wait()
    await page.until("document.querySelector('.job-state').textContent === 'Cancelled'")
    service.gate, service.trouble = None, Trouble(InvalidRequest("nobody can paint that"))
    await submit(page, "a house")
    await page.until("document.querySelector('.job-state').textContent.startsWith('Failed: nobody can paint that')")
    assert [await count(page, ".job"), await text(page, ".job-title")] == [2, "a house"]


async def test_an_edit_as_a_job_hangs_beside_its_original(page: Page, service: FakeService, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(24, 12))
    await page.choose_file("#start", image)
    await page.until("document.querySelector('#mask').width === 24")
    await page.drag("#mask", [(0.5, 0.5)])
    await submit(page, "a boat")
    await page.until("document.querySelector('.job img')?.naturalWidth")
    await page.run(f"{button('Show')}.click()")
    await page.until("document.querySelector('#original').naturalWidth === 24")
    assert await page.run("document.querySelector('#before').hidden") is False
    job = service.jobs[-1]
    assert isinstance(job, PaintJob)
    assert job.init is not None
    assert job.init.mask is not None
