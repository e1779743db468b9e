"""A host that needs what another one makes."""

from collections.abc import AsyncIterator

import pytest

from tests.stages.host.inputs.needing import Scene


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()
