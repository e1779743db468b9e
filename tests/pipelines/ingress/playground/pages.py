"""The page in a real browser, over a service without models. What the page complains about fails the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipelines.ingress.request.settings import IngressSettings
from tests.pipelines.ingress.chromium import BROWSER, Browser, Page
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.surface import server_for

IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    pytest.mark.asyncio(loop_scope="module"),
]
READY = "document.querySelector('#status').classList.contains('ready')"


@asynccontextmanager
async def playground(
    service: FakeService, browser: Browser, settings: IngressSettings | None = None, *, width: int = 1360
) -> AsyncIterator[Page]:
    """The page of a server of its own, once every stage is told to be ready."""
    async with server_for(service, settings) as address, browser.page() as page:
        await page.open(address, width=width)
        await page.until(READY)
        yield page
        assert page.problems == []


async def text(page: Page, selector: str) -> str:
    return str(await page.run(f"document.querySelector({selector!r}).innerText"))


async def count(page: Page, selector: str) -> int:
    return int(await page.run(f"document.querySelectorAll({selector!r}).length"))


async def fill(page: Page, selector: str, value: str) -> None:
    """In the place of what is there."""
    await page.run(f"document.querySelector({selector!r}).value = ''")
    await page.type(selector, value)


async def choose(page: Page, selector: str, value: str) -> None:
    """Of a select's options."""
    script = f"(() => {{ const field = document.querySelector({selector!r}); field.value = {value!r};"
    await page.run(f"{script} field.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()")
