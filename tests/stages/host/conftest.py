"""A host that adds and counts."""

from collections.abc import AsyncIterator

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.host.host import StageHost


@pytest.fixture
async def host() -> AsyncIterator[StageHost]:
    host = StageHost(cache=TieredCache([MemoryTier(2**20)]), replica="r1")
    yield host
    await host.close()
