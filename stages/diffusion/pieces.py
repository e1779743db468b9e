"""A vae's pass over images where memory is short: all at once, or image by image, or an image in tiles.

Decides which, by what has not fitted before. Image by image gives the same result. Tiles don't quite (each is normalised by
itself, and they are blended where they overlap), so only an image that does not fit alone is done so: in as few as fit. What
did not fit is tried again after `RETRY_AFTER` passes: what took the memory may be gone. Knows no stage.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch

from stages.contract.errors import OutOfMemory
from stages.contract.faults import Fault, fault_of
from stages.device.device_memory import empty_cache

RETRY_AFTER = 64
SMALLEST_TILE = 8  # latent positions along a side; a multiple of 4, so that the overlaps meet


class Pieces:
    """`vae`: an AutoencoderKL. `latent_factor`: pixels along a side for one latent position."""

    def __init__(self, vae: Any, latent_factor: int, device: str) -> None:
        self._vae, self._factor, self._device = vae, latent_factor, device
        self._batch_limit = self._image_limit = math.inf  # what did not fit: elements of a channel
        self._num_spared = 0

    def run(self, batch: torch.Tensor, scale: int, call: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`call` of [images, channels, height, width], along whose sides `scale` elements make one latent position. Raises
        `OutOfMemory` where one image does not even fit in the smallest tiles."""
        if self._num_spared >= RETRY_AFTER:
            self._forget()
        count, area = len(batch), batch.shape[-2] * batch.shape[-1]
        if count * area < self._batch_limit and area < self._image_limit:
            whole = self._try(batch, call)
            if whole is not None:
                return whole
            logging.getLogger("triptych.stages").warning("%d images of %s did not fit at once", count, batch.shape[-2:])
            if count > 1:
                self._batch_limit = count * area
            else:
                self._image_limit = area
        self._num_spared += 1
        if count > 1:
            return torch.cat([self.run(image, scale, call) for image in torch.split(batch, 1)])
        return self._in_tiles(batch, max(batch.shape[-2:]) // scale, call)

    def _in_tiles(self, image: torch.Tensor, side: int, call: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        tile = side // 2 // 4 * 4
        while tile >= SMALLEST_TILE:
            self._vae.enable_tiling()
            self._vae.tile_latent_min_size, self._vae.tile_sample_min_size = tile, tile * self._factor
            try:
                tiled = self._try(image, call)
            finally:
                self._vae.disable_tiling()
            if tiled is not None:
                return tiled
            tile = tile // 2 // 4 * 4
        raise OutOfMemory(f"an image of {side * self._factor} pixels a side does not fit, not even in tiles")

    def _try(self, batch: torch.Tensor, call: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor | None:
        try:
            return call(batch)
        except Exception as error:
            if fault_of(error) is not Fault.OUT_OF_MEMORY:
                raise
        empty_cache(self._device)
        return None

    def _forget(self) -> None:
        self._batch_limit = self._image_limit = math.inf
        self._num_spared = 0
