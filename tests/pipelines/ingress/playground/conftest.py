"""A page for each test, over a service that the test may change."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.pipelines.ingress.chromium import Page
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.playground.pages import playground


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def page(service: FakeService, tmp_path: Path) -> AsyncIterator[Page]:
    async with playground(service, tmp_path / "profile") as page:
        yield page
