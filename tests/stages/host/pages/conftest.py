"""Replicas that share a far tier."""

from collections.abc import AsyncIterator

import pytest

from tests.stages.host.pages.spelling import Scene


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()
