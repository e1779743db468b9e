"""The vision part of an open_clip model: images to patch tokens.

Decides how the part is cut out of the whole (the text tower is never built for a local folder) and which tokens are handed on.
Knows no projector, no language model and no device policy: it computes where its weights are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from stages.device.torchvision_shim import ensure_torchvision

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
LOCAL_PREFIX = "local-dir:"


class OpenClipTower(nn.Module):
    """An open_clip vision transformer and its own evaluation transform.

    `source` is a local open_clip folder (with or without the `local-dir:` prefix) or the name of a model that open_clip ships
    a configuration for (`ViT-B-32`), then with random weights. `layer` is the block whose tokens `tokens` returns; negative
    counts from the end. Raises FileNotFoundError for an incomplete folder, ValueError for an unknown name.
    """

    def __init__(self, source: str | Path, layer: int = -1) -> None:
        super().__init__()
        ensure_torchvision()
        folder = Path(str(source).removeprefix(LOCAL_PREFIX))
        if folder.is_dir():
            visual, self._transform = _from_folder(folder)
        else:
            visual, self._transform = _untrained(str(source))
        self.visual = visual.eval()
        self.layer = layer

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image, as `preprocess` gives it: channels, height, width."""
        height, width = cast(Any, self.visual).image_size
        return 3, int(height), int(width)

    def tokens(self, pixels: Tensor) -> Tensor:
        """[batch, 3, height, width] -> [batch, patches, width]: the patch tokens of `layer`, class token dropped."""
        weight = next(self.visual.parameters())
        pixels = pixels.to(device=weight.device, dtype=weight.dtype)
        visual = cast(Any, self.visual)
        found = visual.forward_intermediates(
            pixels, indices=self._indices(), stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        return cast(Tensor, found["image_intermediates"][-1])

    def forward(self, pixels: Tensor) -> Tensor:
        """The same as `tokens`."""
        return self.tokens(pixels)

    def preprocess(self, image: Image.Image) -> Tensor:
        """One image, of any size and mode, -> [3, height, width] float32, ready for `tokens`."""
        return cast(Tensor, self._transform(image.convert("RGB")))

    def _indices(self) -> list[int]:
        num_blocks = len(cast(Any, self.visual).transformer.resblocks)
        return [self.layer % num_blocks]


def _from_folder(folder: Path) -> tuple[nn.Module, Any]:
    from open_clip.model import _build_vision_tower
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = json.loads((folder / CONFIG_FILE).read_text())
    model = config["model_cfg"]
    visual = cast(nn.Module, _build_vision_tower(model["embed_dim"], model["vision_cfg"], model.get("quick_gelu", False)))
    visual.load_state_dict(_visual_weights(folder / WEIGHTS_FILE))
    preprocess = PreprocessCfg(**{**config.get("preprocess_cfg", {}), "size": cast(Any, visual).image_size})
    return visual, image_transform_v2(preprocess, is_train=False)


def _visual_weights(path: Path) -> dict[str, Tensor]:
    prefix = "visual."
    with safe_open(path, framework="pt") as weights:
        names = [name for name in weights.keys() if name.startswith(prefix)]  # noqa: SIM118 - not a dict
        return {name.removeprefix(prefix): cast(Tensor, weights.get_tensor(name)).to(torch.float32) for name in names}


def _untrained(name: str) -> tuple[nn.Module, Any]:
    import open_clip

    if name not in open_clip.list_models():
        raise ValueError(f"{name!r} is neither a folder nor a model that open_clip knows")
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=None, weights_only=True)
    return cast(nn.Module, model.visual), transform
