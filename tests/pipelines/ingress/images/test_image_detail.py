"""Low detail: decoded apart from everything else, within bounds, and no longer than anybody waits for it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipelines.ingress.images.image_detail import WAITING_BUDGETS, LowDetail
from pipelines.jobs import ImagePart
from stages.concurrency.thread_pool import ThreadPool, working_for
from stages.contract.errors import InvalidRequest, Overloaded, TooLarge
from stages.images.pixel_budget import PixelBudget
from tests.stages.fakes import PATIENCE_S
from tests.stages.image_files import quarters, save

SIDE = 600
PIXELS = SIDE * SIDE
IMAGE = ImagePart(save(quarters(SIDE, SIDE), "PNG"), SIDE, SIDE, "image")


class ManyTimes(PixelBudget):
    """A budget that notes how often somebody began to decode."""

    def __init__(self, max_pixels: int) -> None:
        super().__init__(max_pixels, max_wait_s=PATIENCE_S)
        self.begun = 0

    @contextmanager
    def hold(self, pixels: int, *, param: str) -> Iterator[None]:
        with super().hold(pixels, param=param):
            self.begun += 1
            yield


def low_detail(budget: PixelBudget) -> LowDetail:
    return LowDetail(ThreadPool("decoding", threads=2, max_waiting=1000), max_pixels=10**6, budget=budget)


async def test_a_large_image_becomes_a_small_one_and_a_small_one_stays_what_it_is() -> None:
    detail, small = low_detail(PixelBudget()), ImagePart(save(quarters(), "PNG"), 40, 24, "image")
    shrunk = await detail.shrunk(IMAGE)
    assert (shrunk.width, shrunk.height, shrunk.param) == (512, 512, "image")
    assert await detail.shrunk(small) is small


async def test_what_cannot_be_read_or_never_fits_is_the_requests_fault() -> None:
    with pytest.raises(InvalidRequest, match="not an image"):
        await low_detail(PixelBudget()).shrunk(ImagePart(IMAGE.data[:-40], SIDE, SIDE, "image"))
    with pytest.raises(TooLarge, match=r"limits\.pixels_in_flight"):
        await low_detail(PixelBudget(PIXELS - 1)).shrunk(IMAGE)


async def test_more_than_some_seconds_work_does_not_wait() -> None:
    budget = ManyTimes(PIXELS)
    detail = low_detail(budget)
    with budget.hold(PIXELS, param="another"):
        waiting = [asyncio.create_task(detail.shrunk(IMAGE)) for _ in range(WAITING_BUDGETS)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"limits\.pixels_in_flight") as caught:
            await detail.shrunk(IMAGE)
        assert caught.value.retry_after_s
    assert len(await asyncio.gather(*waiting)) == WAITING_BUDGETS
    assert (await detail.shrunk(IMAGE)).width == 512


async def test_what_one_tenant_waits_for_keeps_no_other_out() -> None:
    budget = ManyTimes(PIXELS)
    detail = low_detail(budget)
    with budget.hold(PIXELS, param="another"):
        with working_for("a"):
            waiting = [asyncio.create_task(detail.shrunk(IMAGE)) for _ in range(WAITING_BUDGETS)]
        await asyncio.sleep(0)
        with working_for("b"):
            waiting += [asyncio.create_task(detail.shrunk(IMAGE)) for _ in range(WAITING_BUDGETS // 2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await detail.shrunk(IMAGE)
        with working_for("a"), pytest.raises(Overloaded):
            await detail.shrunk(IMAGE)
    assert len(await asyncio.gather(*waiting)) == WAITING_BUDGETS * 3 // 2


async def test_who_leaves_while_waiting_for_room_is_not_decoded_for() -> None:
    budget = ManyTimes(PIXELS)
    detail = low_detail(budget)
    with budget.hold(PIXELS, param="another"):
        waiting = [asyncio.create_task(detail.shrunk(IMAGE)) for _ in range(WAITING_BUDGETS)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert (await detail.shrunk(IMAGE)).width == 512  # behind all of them
    assert budget.begun == 2


async def test_a_decode_that_runs_ends_with_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's pixels come in many blocks: the first is held back until its request has gone."""
    from stages.images import image

    begun, gone, blocks = threading.Event(), threading.Event(), list[int]()

    class Held(image._WatchedFile):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 100_000:
                begun.set()
                assert gone.wait(PATIENCE_S)
            blocks.append(self.tell())
            return super().read(size)

    monkeypatch.setattr(image, "_WatchedFile", Held)
    noise = save(quarters(2000, 500).effect_spread(400), "PNG", compress_level=0)
    budget = PixelBudget(10**6)
    task = asyncio.create_task(low_detail(budget).shrunk(ImagePart(noise, 2000, 500, "image")))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    task.cancel()
    await asyncio.wait([task])
    gone.set()
    with budget.hold(10**6, param="another"):  # there is room again
        pass
    assert max(blocks) < len(noise) // 10
