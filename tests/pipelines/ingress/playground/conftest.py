"""One browser for each module, on one event loop, and in it a page for each test, over a service that the test may change."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.pipelines.ingress.chromium import Browser, Page, chromium
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.playground.pages import playground


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest_asyncio.fixture(loop_scope="module")
async def page(service: FakeService, browser: Browser) -> AsyncIterator[Page]:
    async with playground(service, browser) as page:
        yield page
