"""Runs the `UNet2DConditionModel` of Stable Diffusion 1.x and 2.x."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from stages.diffusion.family import Condition
from stages.errors import StageFailed
from stages.stage import Arrays


class UNetBackbone:
    """Reads {"embeds": [tokens, width]}."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self._width = int(unet.config.cross_attention_dim)

    @property
    def device(self) -> torch.device:
        return self._unet.device

    def condition(self, embeds: Arrays, width: int, height: int) -> Condition:
        array = embed_array(embeds, "embeds", (None, self._width))
        return {"encoder_hidden_states": model_input(array, self._unet)}

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition, guidance: Sequence[float]
    ) -> torch.Tensor:
        output: torch.Tensor = self._unet(latents.to(self._unet.dtype), timesteps, **condition, return_dict=False)[0]
        return output.float()


def embed_array(embeds: Arrays, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """One of a prompt's arrays. Raises `StageFailed` where its shape is not as wanted (None: any)."""
    array = embeds.get(name)
    given = None if array is None else array.shape
    if (
        array is None
        or len(array.shape) != len(shape)
        or any(w not in (None, g) for w, g in zip(shape, array.shape, strict=True))
    ):
        raise StageFailed(f"the denoiser wants {name} of shape {shape}, not {given}: the text encoder is another model's")
    return array


def model_input(array: NDArray[Any], model: Any) -> torch.Tensor:
    # A copy: arrays that came through the object store are read-only, which torch warns about.
    return torch.tensor(array).to(model.device, model.dtype)
