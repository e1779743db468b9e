"""A prompt made ready for a slot, away from the engine's thread: its images' features in the model's dtype, its positions, the pages of
its beginning that were brought for it.

All of it lies on the host: what waits, or rests, takes no memory of the device; `llm.py` brings it there once it has a slot.
Decides what of it must be at hand: features of images that a slot or a page holds need not be, and such an image's grid is known from
there; and which pages are taken at their word. Knows no schedule, and no slot but by what the table tells any thread.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.contract.errors import StageFailed
from stages.contract.pages import PageRun
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.device.arrays import as_tensor
from stages.llm.messages import Generate
from stages.llm.model.image_positions import ImagePositions
from stages.llm.model.slot_pages import SlotPages
from stages.llm.model.slot_table import SlotContents, SlotImage, SlotTable
from stages.llm.pages.at_hand import PagesAtHand
from stages.llm.pages.kv_page import Grid, KvPage
from stages.llm.prompts.reading import PromptReader, ReadPrompt
from stages.llm.structure.row_structure import Start
from stages.vision.messages import VisionFeatures


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """`features`: [length, width], on the host in the model's dtype; None where they were not at hand."""

    image: SlotImage
    recipe: Recipe[VisionFeatures]
    features: Tensor | None


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """`positions` [3, tokens] and `position_delta`: as `LlmRow` has them, on the host; None, too, while an image's grid is `unknown`.
    `at_hand`: the pages that were brought, until a slot has them. `structure`: where the answer begins, or goes on, that is held to
    something."""

    read: ReadPrompt
    at_hand: PagesAtHand
    images: tuple[PreparedImage, ...] = ()
    positions: Tensor | None = None
    position_delta: int = 0
    unknown: tuple[Recipe[VisionFeatures], ...] = ()
    structure: Start | None = None

    @property
    def num_tokens(self) -> int:
        """With what the answer began with when it came."""
        return len(self.read.tokens)

    def contents(self, answer: Sequence[int] = ()) -> SlotContents:
        """What a slot will hold of it, with all that was answered before; that begins with what it came with."""
        images = tuple(prepared.image for prepared in self.images)
        tokens, chain = [*self.read.tokens, *answer[self.num_tokens - self.read.num_prompt :]], list(self.read.chain)
        return SlotContents(self.read.salt, tokens, images, chain=chain, may_reuse=not self.read.is_scored)

    def lacks(self, num_reused: int) -> tuple[Recipe[VisionFeatures], ...]:
        """Whose features are missing where the first `num_reused` tokens need not be computed."""
        beyond = [one.recipe for one in self.images if one.features is None and one.image.end > num_reused]
        return _each_once([*self.unknown, *beyond])


@dataclass(frozen=True, slots=True)
class PromptPreparer:
    """Of one model and its slots. Any thread. `width` of an embedding; `pages`: None where there are none."""

    reader: PromptReader
    width: int
    image_positions: ImagePositions | None
    table: SlotTable
    dtype: torch.dtype
    pages: SlotPages | None = None

    def page_run(self, payload: Generate) -> PageRun:
        """The pages of the prompt, and how many of them slots hold. Where all but its last token is held, its last page is, too."""
        if self.pages is None:
            return PageRun()
        read, each = self.reader.read(payload), self.pages.page_tokens
        if not read.page_names or read.is_scored:
            return PageRun()
        held = self.table.num_reusable(read.contents())
        num_resident = (held + 1 if held == len(read.tokens) - 1 else held) // each
        return PageRun(read.page_names, num_resident, float(each), self.pages.num_bytes)

    def needs(self, payload: Generate, inputs: Inputs = NO_INPUTS) -> tuple[Recipe[VisionFeatures], ...]:
        """The images that lie beyond what any slot holds of the prompt and the pages that go on from there; those, too, whose grid is
        needed and not known."""
        if not payload.images:
            return ()
        read = self.reader.read(payload)
        at_hand = self._at_hand(read, inputs)
        reused = at_hand.reach(self.table.num_reusable(read.contents()), len(read.tokens))
        return _each_once(
            span.features
            for span, image in zip(payload.images, read.images, strict=True)
            if image.end > reused or self._is_unknown(self._with_grid(image, None, at_hand))
        )

    def prepare(self, payload: Generate, inputs: Inputs) -> PreparedPrompt:
        """Raises `StageFailed` for features of another model. Pages that don't fit are left out."""
        read = self.reader.read(payload)
        at_hand = self._at_hand(read, inputs)
        with torch.inference_mode():
            images = tuple(
                self._prepared(image, span.features, inputs, at_hand)
                for image, span in zip(read.images, payload.images, strict=True)
            )
            unknown = tuple(one.recipe for one in images if self._is_unknown(one.image))
            prompt = PreparedPrompt(read, at_hand, images, unknown=unknown)
            if self.image_positions is None or not images or unknown:
                return prompt
            positions, delta = self.image_positions.of_prompt(prompt.num_tokens, [one.image for one in images])
            return replace(prompt, positions=positions, position_delta=delta)

    def _prepared(
        self, image: SlotImage, recipe: Recipe[VisionFeatures], inputs: Inputs, at_hand: PagesAtHand
    ) -> PreparedImage:
        if recipe not in inputs:
            return PreparedImage(self._with_grid(image, None, at_hand), recipe, None)
        given = inputs[recipe]
        image = self._with_grid(image, given, at_hand)
        self._check(image, given)
        return PreparedImage(image, recipe, as_tensor(given.features, dtype=self.dtype, device="cpu"))

    def _with_grid(self, image: SlotImage, given: VisionFeatures | None, at_hand: PagesAtHand) -> SlotImage:
        if self.image_positions is None:
            return image
        known = _grid_in(given) if given is not None else self.table.grid_of(image.name) or at_hand.grids.get(image.offset)
        return replace(image, grid=known)

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

    def _at_hand(self, read: ReadPrompt, inputs: Inputs) -> PagesAtHand:
        each, found, grids = self.reader.naming.page_tokens, dict[int, KvPage](), dict[int, Grid]()
        if self.pages is None:
            return PagesAtHand(each)
        for number, name in enumerate(read.page_names):
            page = inputs.get(name)
            if not isinstance(page, KvPage) or not self.pages.fits(page):
                continue
            beginning = [image for image in read.images if image.offset // each == number] if read.images else []
            told = self._grids_in(page, beginning)
            if told is not None:
                found[number] = page
                grids |= told
        return PagesAtHand(each, found, grids)

    def _grids_in(self, page: KvPage, beginning: Sequence[SlotImage]) -> Mapping[int, Grid] | None:
        """By offset, of the images that begin in the page; None: it tells something else."""
        if self.image_positions is None:
            return {}
        grids = np.zeros((0, 3), np.int64) if page.grids is None else page.grids
        if grids.shape != (len(beginning), 3):
            return None
        told = {image.offset: (int(t), int(h), int(w)) for image, (t, h, w) in zip(beginning, grids, strict=True)}
        fit = all(self.image_positions.num_tokens(told[image.offset]) == image.length for image in beginning)
        return told if fit else None


def _grid_in(given: VisionFeatures) -> Grid | None:
    if given.grid_thw is None or given.grid_thw.shape != (3,):
        return None
    time, height, width = given.grid_thw.tolist()
    return time, height, width


def _each_once(recipes: Iterable[Recipe[Any]]) -> tuple[Recipe[Any], ...]:
    return tuple({recipe.name: recipe for recipe in recipes}.values())
