"""The vision encoder stage of a model made of an open_clip tower and a projector: images to soft tokens.

Decides that images of equal size share a batch. Knows no language model; that the projector was trained on this tower is
checked.
"""

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import ConfigurationError
from stages.contract.recipe import Inputs
from stages.device.arrays import as_array
from stages.vision.clip.projector import Projector
from stages.vision.clip.tower import WEIGHTS_FILE, OpenClipTower
from stages.vision.images import compiled, preprocessed
from stages.vision.messages import EncodeImage, VisionFeatures


class OpenClipEncoder:
    """A `OneShotStage[EncodeImage, Tensor, VisionFeatures]`. Its work unit is an image patch."""

    def __init__(self, tower: OpenClipTower, projector: Projector, options: LoadOptions) -> None:
        self._options = options
        dtype = getattr(torch, options.dtype)
        self._tower = tower.to(options.device, dtype).eval().requires_grad_(False)
        self._projector = projector.to(options.device, dtype).eval().requires_grad_(False)
        self._encode = compiled(lambda pixels: self._projector(self._tower.tokens(pixels)), options)

    @classmethod
    def load(cls, clip: Checkpoint, projector: Checkpoint, options: LoadOptions) -> "OpenClipEncoder":
        """Reads the tower and the projector; the text half of the open_clip model is never read. Raises
        `ConfigurationError` where the two don't belong together."""
        try:
            loaded = Projector.load(projector.folder)
            tower = OpenClipTower(clip.folder, layer=loaded.config.vision_layer)
        except Exception as error:  # a broken checkpoint fails in a dozen ways, and all of them are the configuration's
            raise ConfigurationError(f"{clip.source} with projector {projector.source} cannot be loaded: {error}") from error
        _check_pair(clip, projector, loaded)
        encoder = cls(tower, loaded, options)
        encoder._check_shapes(clip, projector)
        return encoder

    def _check_shapes(self, clip: Checkpoint, projector: Checkpoint) -> None:
        config = self._projector.config
        with torch.inference_mode():
            tokens = self._tower.tokens(torch.zeros(1, *self._tower.input_shape))
        if tokens.shape[1:] != (config.num_image_tokens, config.vision_width):
            raise ConfigurationError(
                f"projector {projector.source} takes {(config.num_image_tokens, config.vision_width)} (tokens, width) and "
                f"{clip.source} gives {tuple(tokens.shape[1:])}; use the tower it was trained with"
            )

    @property
    def device(self) -> str:
        return self._options.device

    @property
    def result_type(self) -> type[VisionFeatures]:
        return VisionFeatures

    def check(self, payload: EncodeImage) -> None:
        """What is wrong with an image shows when it is read."""

    def weigh(self, payload: EncodeImage) -> float:
        """Exact: every image is brought to the tower's size."""
        return float(self._projector.config.num_image_tokens)

    def prepare(self, payload: EncodeImage, inputs: Inputs) -> Tensor:
        """[3, height, width] float32."""
        return preprocessed(payload, self._tower.preprocess)

    def batch_key(self, item: Tensor) -> Hashable:
        return tuple(item.shape)

    def cost(self, item: Tensor) -> float:
        """Image patches."""
        return float(self._projector.config.num_image_tokens)

    def run(self, batch: Sequence[Tensor]) -> Sequence[VisionFeatures]:
        with torch.inference_mode():
            features = self._encode(torch.stack(list(batch)))
        return [VisionFeatures(as_array(one)) for one in features]


def _check_pair(clip: Checkpoint, projector: Checkpoint, loaded: Projector) -> None:
    expected = loaded.config.clip_fingerprint
    if not expected:
        return
    with open(clip.folder / WEIGHTS_FILE, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ConfigurationError(
            f"projector {projector.source} was trained with another tower than {clip.source} (weights {expected[:12]}, not "
            f"{found[:12]}); use the pair that belongs together"
        )
