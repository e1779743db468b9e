"""OpenAI's `detail: "low"` for an image in a chat: it is seen at 512 x 512 pixels at most.

Decides how much may wait to be decoded, by pixels, in parts to its tenants. It is done in a pool of its own, within what the process
may decode at a time; who stops waiting stops it, too.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from pipelines.jobs import ImagePart
from stages.concurrency.thread_pool import TENANT, ThreadPool
from stages.contract.errors import Overloaded
from stages.contract.limits import QueueLimits
from stages.engine.scheduling.room import Tally, has_room_for_cost
from stages.images.image import decoded, encode
from stages.images.pixel_budget import PixelBudget, pixels_of_this_process

LOW_DETAIL_SIDE = 512
WAITING_BUDGETS = 10
"""How many times what may be decoded at a time may wait for it: some seconds' work."""
RETRY_AFTER_S = 1.0


class LowDetail:
    """On one event loop. `budget` None: the process's own."""

    def __init__(self, pool: ThreadPool, *, max_pixels: int, budget: PixelBudget | None = None) -> None:
        self._pool, self._max_pixels = pool, max_pixels
        self._budget = budget or pixels_of_this_process()
        self._in_hand = Tally[str]()  # pixels, by tenant

    async def shrunk(self, part: ImagePart) -> ImagePart:
        """The image shrunk to fit, as PNG; itself where it fits already. Raises `InvalidRequest` for a file that cannot be read,
        `Overloaded` where there is too much to decode before it. Cancelled: decoding stops, at the next block of the file."""
        if max(part.width, part.height) <= LOW_DETAIL_SIDE:
            return part
        tenant = TENANT.get()
        self._refuse_if_full(tenant, part.pixels)
        self._in_hand.add(tenant, part.pixels)
        try:
            return await self._pool.run(self._shrink, part)
        finally:
            self._in_hand.remove(tenant, part.pixels)

    def _refuse_if_full(self, tenant: str, pixels: int) -> None:
        most = WAITING_BUDGETS * self._budget.max_pixels
        if not has_room_for_cost(self._in_hand, tenant, pixels, QueueLimits(max_cost=most)):
            raise Overloaded(
                f"{self._in_hand.cost:.0f} pixels of images wait here to be decoded; at most {most} may ({WAITING_BUDGETS} times "
                "limits.pixels_in_flight)",
                retry_after_s=RETRY_AFTER_S,
            )

    def _shrink(self, part: ImagePart) -> ImagePart:
        with decoded(part.data, max_pixels=self._max_pixels, param=part.param, budget=self._budget) as image:
            image.thumbnail((LOW_DETAIL_SIDE, LOW_DETAIL_SIDE), Image.Resampling.BICUBIC)
            pixels = np.asarray(image)
        return replace(part, data=encode(pixels, "png"), width=image.width, height=image.height)
