"""Requests copied as code, and run: they ask for what the page asked for."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import ChatJob, PaintJob
from tests.pipelines.ingress.chromium import Page
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.playground.pages import IN_A_BROWSER, choose, count, text
from tests.pipelines.ingress.surface import png

pytestmark = IN_A_BROWSER

TRICKY = 'It\'s $HOME, `id`, \\n and "quotes"; @file 🙂'
CLIPBOARD = "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the code that was copied runs, and finds its files."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    return folder


async def copied(page: Page, place: str, words: str) -> str:
    await page.run(f"{CLIPBOARD}; window.copied = ''")
    await page.run(f"[...document.querySelectorAll('{place} button')].find(one => one.textContent === {words!r}).click()")
    await page.until("window.copied")
    code = str(await page.run("window.copied"))
    assert "secret" not in code
    assert "OPENAI_API_KEY" in code
    return code


async def run(code: str) -> None:
    """As a shell does, or Python."""
    if code.startswith("curl"):
        shell = await asyncio.create_subprocess_exec("bash", "-euo", "pipefail", "-c", code, stdout=asyncio.subprocess.PIPE)
        told, _ = await shell.communicate()
        assert shell.returncode == 0, told
    else:
        await asyncio.to_thread(exec, code, {"__name__": "copied"})


async def run_both(page: Page, place: str) -> None:
    for words in ("Copy as curl", "Copy as Python"):
        await run(await copied(page, place, words))


async def test_a_chat_with_a_large_image_a_schema_and_functions_is_asked_again(
    page: Page, service: FakeService, folder: Path
) -> None:
    image = folder / "picture-1.png"
    image.write_bytes(_noise())
    await page.choose_file("#image", image)
    await choose(page, "#answer-form", "json_schema")
    await choose(page, "#tool-choice", "required")
    await page.type("#question", TRICKY)
    await page.press("Enter")
    await page.until("document.querySelector('.turn-actions button')")
    await run_both(page, ".turn")
    first, *again = service.jobs
    assert isinstance(first, ChatJob)
    assert again == [first, first]


def _noise() -> bytes:
    """An image of some size as a file."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (40, 30), os.urandom(40 * 30 * 3)).save(out, "PNG")
    return out.getvalue()


async def test_a_painting_is_asked_for_again_and_its_picture_written(page: Page, service: FakeService, folder: Path) -> None:
    await page.type("#sentence", TRICKY)
    await page.type("#seed", "5")
    await page.click("#paint-form summary")
    await page.type("#negative", "@blur")
    await page.press("Enter")
    await page.until("document.querySelector('#paint-copy button')")
    await run_both(page, "#paint-copy")
    assert (folder / "painted.png").read_bytes().startswith(b"\x89PNG")
    _asked_alike(service)


async def test_an_edit_and_its_job_are_asked_for_again_with_their_files(
    page: Page, service: FakeService, folder: Path
) -> None:
    image = folder / "my picture.png"
    image.write_bytes(png(24, 12))
    await page.choose_file("#start", image)
    await page.until("document.querySelector('#mask').width === 24")
    await page.drag("#mask", [(0.5, 0.5)])
    await page.type("#strength", "0.5")
    await page.type("#sentence", TRICKY)
    await page.type("#seed", "5")
    await page.press("Enter")
    await page.until("document.querySelector('#paint-copy button')")
    (folder / "mask.png").write_bytes(_mask(service.jobs[0]))
    await run_both(page, "#paint-copy")
    await page.click("#paint-job")
    await page.until("document.querySelector('.job img')?.naturalWidth")
    await run_both(page, ".job")
    await page.until("document.querySelectorAll('.job').length === 1")
    await page.reload()  # what was asked for is remembered
    await page.until("document.querySelectorAll('.job img[src]').length === 3")
    assert await count(page, ".job button") == 3 * 2 + 2
    _asked_alike(service, times=6)


def _mask(job: Any) -> bytes:
    return bytes(job.init.mask.data)


def _asked_alike(service: FakeService, times: int = 3) -> None:
    assert len(service.jobs) == times
    asked = [replace(job, partial_images=0) for job in service.jobs if isinstance(job, PaintJob)]
    assert asked == [asked[0]] * times


async def test_code_is_shown_where_the_browser_lets_no_page_copy(page: Page) -> None:
    await page.type("#question", "hello")
    await page.press("Enter")
    await page.until("document.querySelector('.turn-actions button')")
    await page.run("navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'))")
    await page.click(".turn-actions button")
    await page.until("document.querySelector('#code-window').open")
    assert (await page.run("document.querySelector('#code').value")).startswith("curl ")
    assert await text(page, "#code-title") == "The browser lets no page copy here; copy it yourself"
    await page.press("Escape")
    await page.until("!document.querySelector('#code-window').open")
