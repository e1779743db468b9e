"""Over a real Serve handle: large arrays arrive once, and whole."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray import serve

from cache.codec import BFLOAT16
from pipelines.cluster.object_store import ObjectStore
from pipelines.cluster.serve_client import ServeStageClient
from stages.contract.item import Item
from stages.host.packed_item import PackedItem, unpacked
from stages.llm.messages import Generate, ImageSpan, Sampling

pytestmark = pytest.mark.cluster


class Weigher:
    """Answers each item with what its picture's features add up to, as bits."""

    async def stream(self, stage: str, item: Item[Any] | PackedItem, *beside: NDArray[Any]) -> AsyncIterator[Sequence[object]]:
        features = unpacked(item, beside).payload.images[0].value["features"]
        yield [(str(features.dtype), len(beside), int(features.view(np.uint16).astype(np.int64).sum()))]


@pytest.fixture
def handle() -> Iterator[Any]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        yield serve.run(
            serve.deployment(Weigher).options(ray_actor_options={"num_cpus": 0.1}).bind(), name="weigher", route_prefix=None
        )
    finally:
        serve.shutdown()
        ray.shutdown()


async def test_eight_choices_about_a_picture_take_one_copy_of_its_features_along(handle: Any) -> None:
    features = np.full((576, 4096), 0x3F80, np.uint16).view(BFLOAT16)
    features.flags.writeable = False
    put: list[int] = []

    def counted(array: NDArray[Any]) -> Any:
        put.append(array.nbytes)
        return ray.put(array)

    client = ServeStageClient({"weigher": handle}, {"m.llm": "weigher"}, ObjectStore(counted))
    answers = []
    for index in range(8):
        work = Generate((1,), Sampling(1), (ImageSpan(0, 576, "x", {"features": features}),))
        answers += [event async for events in client.stream("m.llm", Item(str(index), work)) for event in events]
    assert answers == [(str(BFLOAT16), 1, 576 * 4096 * 0x3F80)] * 8
    assert put == [576 * 4096 * 2]
