"""A prompt made ready for a slot, away from the engine's thread: its images' features in the model's dtype, its positions.

All of it lies on the host: what waits, or rests, takes no memory of the device; `llm.py` brings it there once it has a slot.
Decides what of it must be at hand: features of images that a slot holds need not be, and such an image's grid is known from
there. Knows no schedule, and no slot but by what the table tells any thread.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stages.contract.errors import StageFailed
from stages.contract.recipe import Inputs, Recipe
from stages.device.arrays import as_tensor
from stages.llm.messages import Generate, ImageSpan
from stages.llm.model.image_positions import ImagePositions
from stages.llm.model.slot_table import Grid, SlotContents, SlotImage, SlotTable
from stages.vision.messages import VisionFeatures


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """`features`: [length, width], on the host in the model's dtype; None where they were not at hand."""

    image: SlotImage
    recipe: Recipe[VisionFeatures]
    features: Tensor | None


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """`tokens`: an image's placeholder that the vocabulary doesn't have is 0, as it is never looked at. `positions` [3, tokens]
    and `position_delta`: as `LlmRow` has them, on the host; None, too, while an image's grid is `unknown`."""

    salt: str
    tokens: tuple[int, ...]
    images: tuple[PreparedImage, ...] = ()
    positions: Tensor | None = None
    position_delta: int = 0
    unknown: tuple[Recipe[VisionFeatures], ...] = ()

    def contents(self, answer: Iterable[int] = ()) -> SlotContents:
        """What a slot will hold of it, with what was answered before."""
        return SlotContents(self.salt, [*self.tokens, *answer], tuple(prepared.image for prepared in self.images))

    def lacks(self, num_reused: int) -> tuple[Recipe[VisionFeatures], ...]:
        """Whose features are missing where a slot holds the first `num_reused` tokens."""
        beyond = [one.recipe for one in self.images if one.features is None and one.image.end > num_reused]
        return _each_once([*self.unknown, *beyond])


@dataclass(frozen=True, slots=True)
class PromptPreparer:
    """Of one model and its slots. Any thread. `num_tokens` of the vocabulary, `width` of an embedding."""

    num_tokens: int
    width: int
    image_positions: ImagePositions | None
    table: SlotTable
    dtype: torch.dtype

    def needs(self, payload: Generate) -> tuple[Recipe[VisionFeatures], ...]:
        """The images that lie beyond what any slot holds of the prompt; those, too, whose grid is needed and not known."""
        if not payload.images:
            return ()
        images = tuple(self._slot_image(span, None) for span in payload.images)
        reused = self.table.num_reusable(SlotContents(payload.salt, self._tokens(payload), images))
        return _each_once(
            span.features
            for span, image in zip(payload.images, images, strict=True)
            if image.end > reused or self._is_unknown(image)
        )

    def prepare(self, payload: Generate, inputs: Inputs) -> PreparedPrompt:
        """Raises `StageFailed` for features of another model."""
        with torch.inference_mode():
            images = tuple(self._prepared(span, inputs) for span in payload.images)
            unknown = tuple(one.recipe for one in images if self._is_unknown(one.image))
            prompt = PreparedPrompt(payload.salt, tuple(self._tokens(payload)), images, unknown=unknown)
            if self.image_positions is None or not images or unknown:
                return prompt
            positions, delta = self.image_positions.of_prompt(len(prompt.tokens), [one.image for one in images])
            return replace(prompt, positions=positions, position_delta=delta)

    def _prepared(self, span: ImageSpan, inputs: Inputs) -> PreparedImage:
        if span.features not in inputs:
            return PreparedImage(self._slot_image(span, None), span.features, None)
        given = inputs[span.features]
        image = self._slot_image(span, given)
        self._check(image, given)
        return PreparedImage(image, span.features, as_tensor(given.features, dtype=self.dtype, device="cpu"))

    def _slot_image(self, span: ImageSpan, given: VisionFeatures | None) -> SlotImage:
        name = span.features.name
        return SlotImage(span.offset, span.length, name, self._grid(name, given))

    def _grid(self, name: str, given: VisionFeatures | None) -> Grid | None:
        if self.image_positions is None:
            return None
        return self.table.grid_of(name) if given is None else _grid_in(given)

    def _is_unknown(self, image: SlotImage) -> bool:
        return self.image_positions is not None and image.grid is None

    def _check(self, image: SlotImage, given: VisionFeatures) -> None:
        shape, needed = given.features.shape, (image.length, self.width)
        if shape != needed:
            raise StageFailed(
                f"an image's features are {shape}; its place and this language model need {needed}: the vision encoder belongs "
                "to another model"
            )
        if self.image_positions is None:
            return
        made = None if image.grid is None else self.image_positions.num_tokens(image.grid)
        if made != image.length:
            raise StageFailed(
                f"an image's grid {image.grid} makes {made} tokens and its place has {image.length}: the vision encoder belongs "
                "to another model"
            )

    def _tokens(self, payload: Generate) -> list[int]:
        tokens = list(payload.token_ids)
        for image in payload.images:
            span = slice(image.offset, image.offset + image.length)
            tokens[span] = [token if token < self.num_tokens else 0 for token in tokens[span]]
        return tokens


def _grid_in(given: VisionFeatures) -> Grid | None:
    if given.grid_thw is None or given.grid_thw.shape != (3,):
        return None
    time, height, width = given.grid_thw.tolist()
    return time, height, width


def _each_once(recipes: Iterable[Recipe[Any]]) -> tuple[Recipe[Any], ...]:
    return tuple({recipe.name: recipe for recipe in recipes}.values())
