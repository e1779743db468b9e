"""Over a real Serve handle: large bytes arrive once, and whole."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import ray
from numpy.typing import NDArray
from ray import serve

from cache.keys import digest
from pipelines.cluster.object_store import ObjectStore
from pipelines.cluster.serve_client import ServeStageClient
from stages.contract.blob import Blob
from stages.contract.item import Item
from stages.contract.recipe import Recipe
from stages.host.packed_item import PackedItem, unpacked
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.vision.messages import EncodeImage, VisionFeatures

pytestmark = pytest.mark.cluster

IMAGE = bytes(range(256)) * 20_000


class Reader:
    """Answers each item with a digest of its image's bytes."""

    async def stream(
        self, stage: str, item: Item[Any] | PackedItem, *beside: NDArray[Any], to: object = None
    ) -> AsyncIterator[Sequence[object]]:
        encode = unpacked(item, beside).payload.images[0].features.payload
        yield [(digest(bytes(encode.data)), len(beside))]


@pytest.fixture
def handle() -> Iterator[Any]:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        yield serve.run(
            serve.deployment(Reader).options(ray_actor_options={"num_cpus": 0.1}).bind(), name="reader", route_prefix=None
        )
    finally:
        serve.shutdown()
        ray.shutdown()


async def test_eight_choices_about_an_image_take_one_copy_of_its_bytes_along(handle: Any) -> None:
    put: list[int] = []

    def counted(array: NDArray[Any]) -> Any:
        put.append(array.nbytes)
        return ray.put(array)

    client = ServeStageClient({"reader": handle}, {"m.llm": ["reader"]}, ObjectStore(counted))
    features: Recipe[VisionFeatures] = Recipe("x", "m.vision_encoder", EncodeImage(Blob(IMAGE), 100))
    answers = []
    for index in range(8):
        payload = Generate((1,), Sampling(1), (ImageSpan(0, 576, features),))
        answers += [event async for events in client.stream("m.llm", Item(str(index), payload)) for event in events]
    assert answers == [(digest(IMAGE), 1)] * 8
    assert put == [len(IMAGE)]
